"""AGP's training loop (arXiv 2504.03965): a critic sees where the right item was ranked, and a prompt is rewritten.

One instruction is shared by all users: the one that profiles are written by (p_gen), or, as the paper's ablation, the
sentence that ranks. Per round, a batch of training users is ranked for; the critic says what the instruction lacked for
each whose item was not first, and how far that has to rise; the advice is generalised, and the instruction rewritten.
Departures from the published code, which cannot run as it stands (the optimised prompt never reaches its model):

* A rewrite is accepted by a test on held-out users; `accept="paper"` is the published rule, on the batch itself.
* Candidates are shown in an order keyed by user, not in the retriever's; all answers are repaired by one rule.
* A rewrite that fails a guard is dropped; the published code takes any text where markers are missing.

The loop is a generator without random state of its own: a killed run is resumed by running it again over the answers
already in the response store.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Literal

from promptailor.graph.build import build_rank_graph
from promptailor.graph.context import Context
from promptailor.graph.resources import Resources
from promptailor.graph.rollout import Progress, complete_all, run_training
from promptailor.graph.state import TrainInput, TrainOutput
from promptailor.graph.train import epoch_seed, order_of_user
from promptailor.policies.acceptance import AcceptanceTest, AcceptRule, Verdict, accept_on_batch
from promptailor.policies.base import PolicyInfo
from promptailor.policies.lineage import Lineage, PromptVersion
from promptailor.policies.manual import MANUAL, SinglePrompt
from promptailor.policies.profiling import Profiling
from promptailor.prompts.guidance import (
    RankedCase,
    Subject,
    accept_instruction,
    critic_messages,
    generalise_messages,
    read_feedback,
    rewrite_messages,
)
from promptailor.prompts.llm import ChatPort, Message, ModelCall, Split
from promptailor.prompts.patterns import Catalogue

POLICY = "agp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """What became of one user under an instruction."""

    user_id: str
    case: RankedCase
    reward: float
    """NDCG@M; 0 where the chosen item is not among the candidates."""


@dataclass(frozen=True, kw_only=True)
class Guiding:
    """What is improved, by whom, and how."""

    resources: Resources
    """Whose recommender ranks; `profilers["agp"]` describes users and items, where that is another model."""
    critic: ChatPort
    """Criticises, generalises and rewrites."""
    context: Context
    """Its seed keys the orders that candidates are shown in."""
    profiling: Profiling
    """Its instruction is what training starts from, where `subject` is the profile."""
    subject: Subject = "profile"
    batch: int = 10
    position: bool = True
    """Whether critic and rewriter are told ranks (AGP's position-based feedback)."""
    accept: AcceptRule = "test"
    patience: int = 5
    """Rounds in a row that bring nothing accepted, after which nothing is left to gain."""
    progress: Progress | None = None
    describe: Callable[[Sequence[TrainInput]], Sequence[TrainInput]] = field(default=lambda users: users)
    """Has the items that these users' prompts show summarised."""

    def policy(self, instruction: str, info: PolicyInfo | None = None) -> SinglePrompt:
        """Return the policy that serves an instruction."""
        return guided_policy(self.resources.catalogue, self.profiling, self.subject, instruction, info)

    def rank(self, instruction: str | None, users: Sequence[TrainInput], split: Split) -> list[Ranked]:
        """Rank for users by an instruction, or by the manual prompt; a repeated one is a cache hit throughout."""
        policies = dict(self.resources.policies)
        if instruction is not None:
            policies[POLICY] = self.policy(instruction)
        graph = build_rank_graph(replace(self.resources, policies=policies, summarises=False), training=True)
        policy = MANUAL if instruction is None else POLICY
        context = self.context.model_copy(update={"policy": policy, "split": split, "explore": False})
        described = self.describe(users)
        outputs = run_training(graph, described, context, n_steps=1, progress=self.progress)
        return [self._ranked(user, output) for user, output in zip(described, outputs, strict=True)]

    def advice(self, instruction: str, failed: Sequence[Ranked]) -> tuple[list[str], int]:
        """Ask the critic about users whose item was not first; return what it advised, and how many answers it spoilt.

        Advice to leave the instruction as it is counts as read and is not returned.
        """
        words, guidance = self._words, self.resources.guidance
        asked = [
            critic_messages(
                user.case,
                instruction,
                words,
                guidance,
                subject=self.subject,
                position=self.position,
                summaries=self.profiling.summaries,
            )
            for user in failed
        ]
        read = [read_feedback(text) for text in self._ask(asked)]
        return [text for text in read if text], sum(text is None for text in read)

    def generalised(self, feedback: Sequence[str], batch: Sequence[Ranked]) -> str:
        """Return what holds for users in general; the advice as it stands where that cannot be read."""
        (answer,) = self._ask([generalise_messages(feedback, self._words, self.resources.guidance)])
        return read_feedback(answer) or "\n".join(feedback)

    def rewritten(self, version: PromptVersion, instruction: str, batch: Sequence[Ranked]) -> PromptVersion:
        """Return the round with its rewrite, or with the guard that it failed."""
        words, guidance = self._words, self.resources.guidance
        messages = rewrite_messages(
            instruction,
            version.feedback,
            [user.case.rank for user in batch],
            max(len(user.case.ranking) for user in batch),
            words,
            guidance,
            subject=self.subject,
            position=self.position,
        )
        titles = {item.title for user in batch for item in (*user.case.history, *user.case.ranking, user.case.chosen)}
        (answer,) = self._ask([messages])
        rewrite = accept_instruction(instruction, answer, words=words, titles=sorted(titles), guidance=guidance)
        return version.model_copy(update={"text": rewrite.text, "reason": rewrite.reason})

    def _ranked(self, user: TrainInput, output: TrainOutput) -> Ranked:
        (relevant,) = user.relevant_item_ids
        known = {item.item_id: item for item in output.request.candidates}
        return Ranked(
            user_id=str(user.user_id),
            case=RankedCase(
                ranking=output.trace[-1].ranking,
                chosen=known.get(relevant) or self.resources.item(relevant, "relevant_item_ids"),
                history=output.request.history,
                profile=output.request.user_profile.taste if output.request.user_profile else None,
            ),
            reward=output.rewards[0],
        )

    def _ask(self, asked: Sequence[tuple[Message, ...]]) -> list[str]:
        calls = [ModelCall(messages=messages, split="train") for messages in asked]
        return [answer.text for answer in complete_all(self.critic, calls, self.progress)]

    @property
    def _words(self) -> Mapping[str, str]:
        return self.resources.catalogue.words(self.resources.domain)


def improve(
    guiding: Guiding,
    lineage: Lineage,
    train: Sequence[TrainInput],
    held_out: Sequence[TrainInput],
    *,
    affords: Callable[[int], bool],
    spent: Callable[[], int],
) -> Generator[Lineage, None, Literal["finished", "early"]]:
    """Improve an instruction, yielding the lineage after every round; return whether it ended before the calls did.

    Args:
        guiding: what is improved, and by whom.
        lineage: has the instruction to start from as its only version.
        train: users whose validation interactions give the feedback.
        held_out: users, none of them in `train`, whose validation interactions judge the rewrites.
        affords: whether so many more rankings may be asked for; a round that may not is not begun.
        spent: model answers so far.

    Raises:
        BudgetExceededError: the budget ran out; rounds already yielded stand.
    """
    test, since, without_failure = AcceptanceTest(), 0, 0
    for number, batch in enumerate(_batches(train, guiding.batch, guiding.context.seed), 1):
        judged = len(batch) if guiding.accept == "paper" else len(held_out)
        if since >= guiding.patience:
            return "early"
        if not affords(len(batch) + 2 * judged):
            return "finished"
        parent = lineage.learned
        assert parent.text is not None, "accepted versions have texts"
        before = guiding.rank(parent.text, batch, "train")
        failed = [user for user in before if user.case.rank > 1]
        if not failed:
            without_failure += len(batch)
            if without_failure >= len(train):
                return "early"
            continue
        without_failure = 0
        version = _round(guiding, parent, len(lineage.versions), before, failed)
        if version.text is not None:
            key = (guiding.context.seed, number)
            if guiding.accept == "paper":
                verdict = _judge_on_batch(guiding, version.text, batch, before, key)
            else:
                scores = [
                    [user.reward for user in guiding.rank(text, held_out, "validation")]
                    for text in (parent.text, version.text)
                ]
                verdict = test.judge(*scores, key=key)
            version = version.model_copy(update={"verdict": verdict})
        lineage = lineage.added(version.model_copy(update={"calls": spent()}))
        since = 0 if version.accepted else since + 1
        yield lineage
    raise AssertionError("batches have no end")


def guided_policy(
    catalogue: Catalogue,
    profiling: Profiling,
    subject: Subject,
    instruction: str,
    info: PolicyInfo | None = None,
) -> SinglePrompt:
    """Return the policy that an instruction makes: the manual prompt with the user's profile, or with its own sentence.

    Args:
        catalogue: has the manual prompt.
        profiling: how profiles and summaries are written.
        subject: what the instruction is for.
        instruction: a template of domain words.
        info: what the policy says of itself; its `profiling` is set here.
    """
    info = info or PolicyInfo(name=POLICY, version="")
    described = profiling.model_copy(update={"instruction": instruction if subject == "profile" else None})
    wanted = described.instruction is not None or described.summaries
    known = replace(info, profiling=described if wanted else None)
    if subject == "rerank":
        return SinglePrompt(spec=catalogue.manual_prompt, sentences={"reasoning_guidance": instruction}, info=known)
    taste = catalogue.user_profile.subsets.index(("taste",))
    return SinglePrompt(spec=catalogue.manual_prompt.model_copy(update={"user_profile": taste}), info=known)


def _round(
    guiding: Guiding, parent: PromptVersion, number: int, batch: Sequence[Ranked], failed: Sequence[Ranked]
) -> PromptVersion:
    """Return a round's version, not judged yet."""
    assert parent.text is not None, "accepted versions have texts"
    feedback, n_unread = guiding.advice(parent.text, failed)
    version = PromptVersion(
        number=number,
        parent=parent.number,
        users=tuple(user.user_id for user in batch),
        n_failed=len(failed),
        mean_rank=sum(user.case.rank for user in batch) / len(batch),
        mean_reward=sum(user.reward for user in batch) / len(batch),
        n_unread=n_unread,
        n_unwritten=sum(user.case.profile is None for user in batch) if guiding.subject == "profile" else 0,
    )
    if not feedback:
        return version.model_copy(update={"reason": "no_feedback" if n_unread else "no_change"})
    advice = guiding.generalised(feedback, batch)
    return guiding.rewritten(version.model_copy(update={"feedback": advice}), parent.text, batch)


def _judge_on_batch(
    guiding: Guiding, text: str, batch: Sequence[TrainInput], before: Sequence[Ranked], key: tuple[int, int]
) -> Verdict:
    """Judge by the batch's mean rank, as published; ranks are negated, because higher is better."""
    after = guiding.rank(text, batch, "train")
    return accept_on_batch([-user.case.rank for user in before], [-user.case.rank for user in after], key=key)


def _batches(users: Sequence[TrainInput], size: int, seed: int) -> Iterator[list[TrainInput]]:
    """Yield batches without end, every epoch in an order of its own."""
    for epoch in count(1):
        order = sorted(users, key=lambda user: order_of_user(str(user.user_id), epoch_seed(seed, epoch)))
        for start in range(0, len(order), size):
            yield order[start : start + size]
