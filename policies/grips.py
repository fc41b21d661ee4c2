"""GRIPS: gradient-free, edit-based search for an instruction (Prasad et al., 2023), for each user or for all.

The manual prompt's sentences are edited phrase by phrase: a phrase is deleted, two are swapped, a sentence is
paraphrased, a deleted phrase is put back. In every round a few edits are tried, and the best is kept where it is better
than what there was; after some rounds without one the search stops. So do ours, with the published settings (10 rounds
of 5 candidates of one edit each, patience 2). Where it differs:

* A prompt here is scored by the mean NDCG of its rankings. The published score adds the entropy of the predicted labels
  to accuracy, which a ranking does not have.
* Phrases are cut by rules (`prompts/phrases.py`), not by a parser, and a sentence is edited within itself, because its
  place in the prompt is fixed. The sentences above history and candidates are not edited, nor is the history's length.
* The refiner paraphrases a whole sentence, under RPP+'s guards, where the published code has PEGASUS paraphrase a
  phrase. Without a refiner the other three edits are used.
* For a single user (instance-wise, as in RPP's comparison) the score is that on pseudo-cases of the user's own history
  (`policies/pseudo_case.py`). A perfect score ends the search. The test label takes no part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal

from pydantic import Field

from promptailor.policies.base import Decision, PolicyInfo, PromptEvaluator, Questions, Replies, Search, Trial
from promptailor.policies.draws import uniform
from promptailor.policies.manual import SinglePrompt, Stopped
from promptailor.prompts.domain import Model
from promptailor.prompts.errors import BudgetExceededError
from promptailor.prompts.patterns import SENTENCE_PATTERNS, Catalogue, SentencePattern
from promptailor.prompts.phrases import Draft

EditKind = Literal["delete", "swap", "add", "paraphrase"]

SEARCH_USERS = 100
"""Training users that a prompt for everybody is scored on at most, as in the paper; fewer where calls are short."""


class GripsConfig(Model):
    """How long to search."""

    rounds: int = Field(10, ge=1)
    candidates: int = Field(5, ge=1)
    """Edited prompts per round."""
    patience: int = Field(2, ge=1)
    """Rounds without a better prompt after which the search stops."""
    cases: int = Field(1, ge=1)
    """Pseudo-cases that a prompt is scored on, a call each."""
    paraphrase: bool = True


@dataclass(frozen=True, kw_only=True)
class Grips:
    """Instance-wise GRIPS; a `SearchingPolicy`."""

    catalogue: Catalogue
    config: GripsConfig = field(default_factory=GripsConfig)
    info: PolicyInfo = field(default_factory=lambda: PolicyInfo(name="grips", version="builtin"))

    @property
    def cases(self) -> int:
        """Pseudo-cases per prompt."""
        return self.config.cases

    @property
    def rewrites(self) -> bool:
        """Whether sentences are paraphrased."""
        return self.config.paraphrase

    def search(self, *, key: tuple[str | int, ...], n_history: int, rewrites: bool) -> Search:
        """Edit the manual prompt."""
        return edit_search(self.catalogue, self.config, key=("grips", *key), rewrites=rewrites)


def edit_search(catalogue: Catalogue, config: GripsConfig, *, key: tuple[str | int, ...], rewrites: bool) -> Search:
    """Search by edits of the manual prompt; see `policies.base.Search`."""
    manual = Draft.of(_templates(catalogue))
    best, left, paraphrased = manual, config.patience, set[str]()
    try:
        (score,) = (yield Questions(attempts=(_decision(catalogue, manual, manual),))).rewards
        for number in range(config.rounds):
            if score >= 1.0 or not left:
                break
            drafts: list[Draft] = []
            wanted: list[tuple[SentencePattern, str]] = []
            for candidate in range(config.candidates):
                edit = _draw_edit(best, (*key, number, candidate), None if not rewrites else paraphrased)
                if isinstance(edit, Draft):
                    drafts.append(edit)
                elif edit:
                    wanted.append(edit)
                    paraphrased.add(edit[1])
            if wanted:
                texts = (yield Questions(rewrites=tuple(text for _, text in wanted))).rewrites
                drafts += [best.rewrite(p, text) for (p, _), text in zip(wanted, texts, strict=True) if text]
            drafts = [draft for draft in _distinct(drafts) if draft.sentences != best.sentences]
            if drafts:
                replies: Replies = yield Questions(attempts=tuple(_decision(catalogue, d, manual) for d in drafts))
                place = replies.rewards.index(max(replies.rewards))
            if drafts and replies.rewards[place] > score:
                best, score, left = drafts[place], replies.rewards[place], config.patience
            else:
                left -= 1
    except BudgetExceededError:
        pass  # what was found so far stands; who threw it knows why the search ended
    return _decision(catalogue, best, manual)


def search_one_prompt(
    evaluator: PromptEvaluator, catalogue: Catalogue, *, calls: int, seed: int, config: GripsConfig | None = None
) -> SinglePrompt:
    """Search one edited prompt for everybody on training users' rewards (the original, task-wise GRIPS).

    Without paraphrases, because training has no refiner. A spent budget ends the search with the best so far.

    Args:
        evaluator: scores prompts on the training users.
        catalogue: its manual prompt is edited.
        calls: trials in all, if the search runs to its last round; they set how many users a prompt is scored on.
        seed: keys the edits.
        config: how long to search.
    """
    config = config or GripsConfig()
    users = evaluator.user_ids[: max(1, min(SEARCH_USERS, calls // (1 + config.rounds * config.candidates)))]
    search = edit_search(catalogue, config, key=("grips", seed), rewrites=False)
    stopped: Stopped = "finished"
    questions = next(search)
    while True:
        try:
            questions = search.send(_replies(evaluator, questions, users))
        except BudgetExceededError as error:
            stopped, found = error.stopped, _cut_short(search, error)
            break
        except StopIteration as end:
            found = end.value
            break
    info = PolicyInfo(name="grips", version="unsaved")
    return SinglePrompt(spec=found.spec, sentences=found.sentences, info=info, stopped=stopped)


def _replies(evaluator: PromptEvaluator, questions: Questions, users: Sequence[str]) -> Replies:
    """Score every attempt on the same users."""
    rewards = evaluator.rewards(
        [
            Trial(user_id=user, spec=attempt.spec, sentences=attempt.sentences)
            for attempt in questions.attempts
            for user in users
        ]
    )
    starts = range(0, len(rewards), len(users))
    return Replies(rewards=tuple(sum(rewards[start : start + len(users)]) / len(users) for start in starts))


def _cut_short(search: Search, error: BudgetExceededError) -> Decision:
    """Return the best so far of a search that cannot go on."""
    try:
        search.throw(error)
    except StopIteration as end:
        found: Decision = end.value
        return found
    raise AssertionError("a search ends where it is told to")


def _templates(catalogue: Catalogue) -> dict[SentencePattern, str]:
    manual = catalogue.manual_prompt
    chosen = {pattern: getattr(manual, pattern) for pattern in SENTENCE_PATTERNS}
    return {p: catalogue.sentences(p)[index].text for p, index in chosen.items()}


def _decision(catalogue: Catalogue, draft: Draft, manual: Draft) -> Decision:
    """Return a draft as a prompt; a sentence that is as it was stays the catalogue's."""
    edited = {p: text for p, text in draft.texts.items() if draft.sentences[p] != manual.sentences[p]}
    return Decision(spec=catalogue.manual_prompt, sentences=edited)


def _draw_edit(
    draft: Draft, key: tuple[str | int, ...], paraphrased: set[str] | None
) -> Draft | tuple[SentencePattern, str] | None:
    """Draw a kind of edit among those that are possible, then where; a paraphrase is the sentence to ask for.

    `paraphrased` are sentences that were asked for before; None where there is nobody to ask.
    """
    kinds = dict(_possible(draft, paraphrased))
    if not kinds:
        return None
    kind = sorted(kinds)[int(uniform(*key, "kind") * len(kinds))]
    places = kinds[kind]
    return places[int(uniform(*key, "place") * len(places))]


def _possible(
    draft: Draft, paraphrased: set[str] | None
) -> Iterator[tuple[EditKind, list[Draft | tuple[SentencePattern, str]]]]:
    """Yield the kinds of edit that are possible, each with every edit of that kind."""
    long = [(p, phrases) for p, phrases in draft.sentences.items() if len(phrases) > 1]
    if deletions := [draft.delete(p, n) for p, phrases in long for n in range(len(phrases))]:
        yield "delete", [*deletions]
    if swaps := [draft.swap(p, *pair) for p, phrases in long for pair in combinations(range(len(phrases)), 2)]:
        yield "swap", [*swaps]
    if additions := [
        draft.add(number, place)
        for number, (pattern, _) in enumerate(draft.deleted)
        for place in range(len(draft.sentences[pattern]) + 1)
    ]:
        yield "add", [*additions]
    if paraphrased is not None and (
        sentences := [(p, text) for p, text in draft.texts.items() if text not in paraphrased]
    ):
        yield "paraphrase", [*sentences]


def _distinct(drafts: list[Draft]) -> list[Draft]:
    kept: list[Draft] = []
    for draft in drafts:
        if all(draft.sentences != other.sentences for other in kept):
            kept.append(draft)
    return kept
