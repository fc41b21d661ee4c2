"""`promptailor sentences rank`: what a white box's gradient says of proposed sentences before any of them is paid for.

The listwise loss is differentiated once per user and pattern at the present sentence's place; every other sentence is
then foreseen by a product of matrices (`policies.first_order`). Beside it stands what really happens to the loss, one
forward pass per sentence and user, and how far the two orders agree. Training users only; proposals are written back
with the best foreseen first, which is the order that `admit` tries them in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydantic import BaseModel
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from scipy import stats

from promptailor.app.backends.budget import Budget, Spending
from promptailor.app.interrupt import stop_on_interrupt
from promptailor.app.progress import progress_bar
from promptailor.app.sentences.folder import PROPOSALS, read_config, read_proposals, write_proposals
from promptailor.app.triggers import white_box
from promptailor.app.wiring import Workspace, open_store
from promptailor.evals.records import write_text
from promptailor.evals.sentences import RANKING_FILE, RankedSentence, SentenceRanking
from promptailor.evals.statistics import Array, Estimate, estimate, generator
from promptailor.evals.types import EvalCase
from promptailor.graph.rollout import Progress
from promptailor.policies.first_order import predicted_fall, span_beside
from promptailor.policies.reward import ndcg
from promptailor.policies.white_box import Floats, WhiteBox, WhiteBoxPrompt
from promptailor.prompts.assemble import assemble
from promptailor.prompts.errors import InputError
from promptailor.prompts.patterns import PromptSpec, Sentence, SentencePattern

N_RESAMPLES = 2_000
"""Of users, for the interval of the rank correlation."""


class RankSummary(BaseModel):
    """What was foreseen and measured."""

    folder: Path
    ranking: SentenceRanking

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw one row per sentence."""
        table = Table(box=None, header_style="bold")
        for column in ("sentence", "pattern", "foreseen", "measured", "NDCG@10", ""):
            table.add_column(column, no_wrap=True)
        for ranked in self.ranking.sentences:
            cells = [f"{e.mean:+.3f} [{e.low:+.3f}, {e.high:+.3f}]" for e in (ranked.measured, ranked.ndcg)]
            proposed = "proposed" if ranked.proposed else ""
            pattern = ranked.pattern.replace("_", " ")
            table.add_row(
                ranked.id, pattern, f"{ranked.predicted.mean:+.3f}", *cells, proposed, style="" if proposed else "dim"
            )
        yield table
        c = self.ranking.correlation
        yield (
            f"fall of the listwise loss, foreseen and measured: rank correlation {c.mean:+.2f} [{c.low:+.2f},"
            f" {c.high:+.2f}] over {len(self.ranking.sentences)} sentences, {self.ranking.n_users} users"
        )
        yield f"{self.folder / PROPOSALS} is in this order now; {self.ranking.prompts:,} prompts computed"


def rank_sentences(out: Path, *, users: int | None = None, budget: Budget | None = None) -> RankSummary:
    """Rank the proposals of a folder, write `ranking.json`, and put `proposals.yaml` into its order.

    Args:
        out: the folder that `propose` wrote.
        users: the first so many of the training users; None for those of the proposals.
        budget: prompts count as calls; None for no cap.

    Raises:
        SpecError: the model shows no gradients.
        InputError: there are no proposals.
        BudgetExceededError: the budget does not reach.
    """
    made, file = read_config(out), read_proposals(out)
    if not file.proposals:
        raise InputError(f"{out / PROPOSALS}: proposes nothing; there is nothing to rank")
    workspace = made.workspace(open_store(out), budget or Budget())
    cases = workspace.cases(workspace.split.train[: users or made.users], made.n_candidates, made.seed)
    asked: dict[SentencePattern, list[Sentence]] = {}
    for proposal in file.proposals:
        asked.setdefault(proposal.pattern, []).append(proposal.sentence)
    look = _Look(workspace=workspace, box=white_box(workspace), frame=made.frame(workspace), cases=cases)
    new = {sentence.id for sentences in asked.values() for sentence in sentences}
    total = sum(len(look.others(pattern)) + len(sentences) + 1 for pattern, sentences in asked.items())
    with stop_on_interrupt(workspace.budget), progress_bar("ranking sentences", total * len(cases)) as progress:
        workspace.budget.reserve(Spending(calls=total * len(cases)))
        seen = [found for pattern, sentences in asked.items() for found in look.at(pattern, sentences, progress)]
    ranking = _ranking(seen, new, workspace.recommender.spec, total * len(cases), made.seed)
    write_text(out / RANKING_FILE, ranking.model_dump_json(indent=2) + "\n")
    foreseen = {ranked.id: ranked.predicted.mean for ranked in ranking.sentences}
    proposals = [p.model_copy(update={"estimate": foreseen[p.id]}) for p in file.proposals]
    ordered = tuple(sorted(proposals, key=lambda p: -foreseen[p.id]))
    write_proposals(out, file.model_copy(update={"proposals": ordered}))
    return RankSummary(folder=out, ranking=ranking)


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """A sentence in its place, for every user."""

    sentence: Sentence
    pattern: SentencePattern
    predicted: Array
    measured: Array
    ndcg: Array


@dataclass(frozen=True, kw_only=True)
class _Look:
    """A white box, a prompt and users."""

    workspace: Workspace
    box: WhiteBox
    frame: PromptSpec
    cases: Sequence[EvalCase]

    def others(self, pattern: SentencePattern) -> list[Sentence]:
        """The catalogue's sentences that do not stand in the prompt."""
        present = getattr(self.frame, pattern)
        return [s for place, s in enumerate(self.workspace.catalogue.sentences(pattern)) if place != present]

    def at(self, pattern: SentencePattern, proposed: Sequence[Sentence], progress: Progress) -> list[_Seen]:
        """Look at every sentence in a pattern's place."""
        bare = [self._encode(case, self.frame.model_copy(update={pattern: None}), {}) for case in self.cases]
        prompts = [
            replace(prompt, positions=tuple(range(*span_beside(prompt.tokens, without.tokens))))
            for prompt, without in zip((self._encode(case, self.frame, {}) for case in self.cases), bare, strict=True)
        ]
        losses, gradients = self.box.gradients(prompts)
        gains = _ndcgs(self.box.label_log_probs(prompts), prompts)
        progress(len(prompts))
        present = self.box.embed([prompts[0].tokens[at] for at in prompts[0].positions])
        words = self.workspace.catalogue.words(self.workspace.dataset.domain)
        seen = []
        for sentence in (*self.others(pattern), *proposed):
            shown = {pattern: sentence.text.format_map(words)}
            changed = [self._encode(case, self.frame, shown) for case in self.cases]
            start, stop = span_beside(changed[0].tokens, bare[0].tokens)
            new = self.box.embed(changed[0].tokens[start:stop])
            scores = self.box.label_log_probs(changed)
            after = np.array([-of[prompt.relevant] for of, prompt in zip(scores, changed, strict=True)])
            seen.append(
                _Seen(
                    sentence=sentence,
                    pattern=pattern,
                    predicted=predicted_fall(gradients, present, new),
                    measured=losses - after,
                    ndcg=_ndcgs(scores, changed) - gains,
                )
            )
            progress(len(changed))
        return seen

    def _encode(self, case: EvalCase, spec: PromptSpec, shown: Mapping[SentencePattern, str]) -> WhiteBoxPrompt:
        prompt = assemble(case.request, spec, self.workspace.catalogue, seed=self.workspace.seed, refined=shown)
        relevant = [item.item_id for item in prompt.shown].index(case.relevant_item_id)
        encoded = self.box.encode(prompt.messages, labels=prompt.labels, relevant=relevant, triggers=())
        assert encoded is not None, "without triggers, no text can be tokenised as another"
        return encoded


def _ndcgs(scores: Sequence[Floats], prompts: Sequence[WhiteBoxPrompt]) -> Array:
    """Return NDCG@10 of the orders that log-probabilities give, ties as shown; shape (prompts,)."""
    orders = [[str(place) for place in np.argsort(-of, kind="stable")] for of in scores]
    return np.array([ndcg(o, {str(p.relevant)}, 10) for o, p in zip(orders, prompts, strict=True)])


def _ranking(seen: Sequence[_Seen], new: set[str], model: str, prompts: int, seed: int) -> SentenceRanking:
    ranked = [
        RankedSentence(
            id=found.sentence.id,
            pattern=found.pattern,
            text=found.sentence.text,
            proposed=found.sentence.id in new,
            predicted=estimate(found.predicted, key=("foreseen", seed, found.sentence.id)),
            measured=estimate(found.measured, key=("measured", seed, found.sentence.id)),
            ndcg=estimate(found.ndcg, key=("ndcg", seed, found.sentence.id)),
        )
        for found in seen
    ]
    return SentenceRanking(
        model=model,
        n_users=len(seen[0].measured),
        correlation=rank_agreement(
            np.stack([found.predicted for found in seen]), np.stack([found.measured for found in seen]), seed=seed
        ),
        sentences=tuple(sorted(ranked, key=lambda sentence: -sentence.predicted.mean)),
        prompts=prompts,
    )


def rank_agreement(predicted: Array, measured: Array, *, seed: int) -> Estimate:
    """Return Spearman's correlation of the users' mean falls over sentences; users are resampled for the interval.

    Args:
        predicted: shape (sentences, users).
        measured: the same users', shape (sentences, users).
        seed: keys the resampling.
    """
    n_users = predicted.shape[1]
    draws = generator("rank agreement", seed).integers(n_users, size=(N_RESAMPLES, n_users))
    found = [_spearman(predicted[:, draw].mean(axis=1), measured[:, draw].mean(axis=1)) for draw in draws]
    mean = _spearman(predicted.mean(axis=1), measured.mean(axis=1))
    low, high = np.quantile(found, (0.025, 0.975)).tolist()
    return Estimate(mean=mean, low=min(low, mean), high=max(high, mean))


def _spearman(first: Array, second: Array) -> float:
    """Return the correlation of ranks; 0 where either has no order."""
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    ranks = stats.rankdata(first), stats.rankdata(second)
    return float(np.corrcoef(*ranks)[0, 1])
