"""What an embedded model is worth: its best fixed prompt, the validity of its answers, how it follows reasoning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import kendalltau

from promptailor.app.backends.embedded.teachers import Teachers
from promptailor.app.backends.local.engine import Engine
from promptailor.evals.datasets import Dataset
from promptailor.evals.protocol import MIN_INTERACTIONS, make_cases
from promptailor.evals.statistics import Estimate, estimate
from promptailor.evals.types import EvalCase
from promptailor.policies.reward import ndcg
from promptailor.prompts.assemble import AssembledPrompt, assemble
from promptailor.prompts.domain import Model
from promptailor.prompts.parse import parse_ranking
from promptailor.prompts.patterns import Catalogue, PromptSpec

HISTORY_LENGTHS = (1, 3, 5, 10, 15, 20, 31)
AGREEMENT_HISTORY = 10
"""Interactions shown where agreement with the teachers is measured."""
_TEXT_CHUNK = 64


class PromptQuality(Model):
    """One fixed prompt for everybody."""

    reasoning: str
    history_length: int
    ndcg: float
    """Mean NDCG@M over users, by first token."""


class FormatValidity(Model):
    """How one output format is answered in words."""

    output_format: str
    valid_rate: float
    """Share of answers that name every candidate exactly once."""
    ndcg: float
    """Mean NDCG@M of the written rankings."""
    first_token_ndcg: float
    """The same prompts ranked by first token."""


class TeacherAgreement(Model):
    """How far a reasoning sentence moves the ranking towards what it says."""

    reasoning: str
    tau: float
    """Mean Kendall's tau-b between the model's ranking and the sentence's teacher."""
    tau_without: float
    """The same for the prompt without a reasoning sentence."""
    gain: Estimate
    """Paired difference over users."""


class LmReport(Model):
    """The acceptance table of an embedded model."""

    dataset: str
    n_users: int
    n_candidates: int
    n_parameters: int
    popularity: float
    """NDCG@M of ranking by training counts, ties in candidate order, on the same cases."""
    prompts: tuple[PromptQuality, ...]
    """Every reasoning sentence at every history length, best first; role and format are the manual prompt's."""
    gain: Estimate
    """Best fixed prompt against popularity, paired over users."""
    formats: tuple[FormatValidity, ...]
    agreements: tuple[TeacherAgreement, ...]

    @property
    def best(self) -> PromptQuality:
        """The best fixed prompt."""
        return self.prompts[0]

    @property
    def worst(self) -> PromptQuality:
        """The worst fixed prompt."""
        return self.prompts[-1]

    @property
    def mean_ndcg(self) -> float:
        """Mean over the fixed prompts."""
        return float(np.mean([prompt.ndcg for prompt in self.prompts]))


def evaluate_lm(
    engine: Engine,
    dataset: Dataset,
    catalogue: Catalogue,
    *,
    n_candidates: int = 10,
    seed: int = 0,
    max_users: int | None = None,
    text_users: int = 200,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> LmReport:
    """Measure a model on its data set's held-out last items.

    Args:
        engine: the loaded model.
        dataset: what it was trained on.
        catalogue: the sentences it was trained with.
        n_candidates: M, the relevant one included.
        seed: of negatives, slots and permutations.
        max_users: evaluate on the first so many users only.
        text_users: users whose written answers are checked; writing takes some forty steps per answer.
        progress: called with what is measured, how many parts are done, and of how many.
    """
    return _Evaluation(engine, dataset, catalogue, n_candidates, seed, max_users, progress).report(text_users)


class _Evaluation:
    def __init__(
        self,
        engine: Engine,
        dataset: Dataset,
        catalogue: Catalogue,
        n_candidates: int,
        seed: int,
        max_users: int | None,
        progress: Callable[[str, int, int], None],
    ) -> None:
        users = [u for u, sequence in dataset.sequences.items() if len(sequence) >= MIN_INTERACTIONS][:max_users]
        self.cases = make_cases(dataset, users, n_candidates=n_candidates, seed=seed)
        self.engine, self.dataset, self.catalogue = engine, dataset, catalogue
        self.n_candidates, self.seed, self.progress = n_candidates, seed, progress
        self.teachers = Teachers.of(dataset)
        self.index = {item_id: i for i, item_id in enumerate(dataset.items)}

    def report(self, text_users: int) -> LmReport:
        popularity = [self._ndcg(case, self._teacher_ranking("popularity", case, 0)) for case in self.cases]
        scores = dict(self._fixed_prompts())
        ordered = sorted(scores, key=lambda key: -float(np.mean(scores[key])))
        gain = np.array(scores[ordered[0]]) - np.array(popularity)
        return LmReport(
            dataset=self.dataset.name,
            n_users=len(self.cases),
            n_candidates=self.n_candidates,
            n_parameters=self.engine.model.num_parameters(),
            popularity=float(np.mean(popularity)),
            prompts=tuple(
                PromptQuality(
                    reasoning=reasoning, history_length=length, ndcg=float(np.mean(scores[reasoning, length]))
                )
                for reasoning, length in ordered
            ),
            gain=estimate(gain, key=("lm-eval", "gain", self.seed)),
            formats=tuple(self._formats(text_users)),
            agreements=tuple(self._agreements()),
        )

    def _fixed_prompts(self) -> Iterator[tuple[tuple[str, int], list[float]]]:
        sentences = self.catalogue.reasoning_guidance.sentences
        total = len(sentences) * len(HISTORY_LENGTHS)
        for index, sentence in enumerate(sentences):
            for place, length in enumerate(HISTORY_LENGTHS):
                rankings = self._rank(self._spec(index, length), self.cases)
                pairs = zip(self.cases, rankings, strict=True)
                yield (sentence.id, length), [self._ndcg(case, ranking) for case, ranking in pairs]
                self.progress("fixed prompts", index * len(HISTORY_LENGTHS) + place + 1, total)

    def _formats(self, n_users: int) -> Iterator[FormatValidity]:
        cases = self.cases[:n_users]
        sentences = self.catalogue.output_format.sentences
        for index, sentence in enumerate(sentences):
            spec = self.catalogue.manual_prompt.model_copy(update={"output_format": index})
            prompts = [self._assemble(case, spec) for case in cases]
            texts = self.engine.generate_texts([p.messages for p in prompts])
            parsed = [parse_ranking(text, p.shown) for text, p in zip(texts, prompts, strict=True)]
            written = [
                self._ndcg(case, [p.shown[i].item_id for i in ranking.order])
                for case, p, ranking in zip(cases, prompts, parsed, strict=True)
            ]
            first = [self._ndcg(case, r) for case, r in zip(cases, self._rank(spec, cases), strict=True)]
            yield FormatValidity(
                output_format=sentence.id,
                valid_rate=float(np.mean([ranking.report.valid for ranking in parsed])),
                ndcg=float(np.mean(written)),
                first_token_ndcg=float(np.mean(first)),
            )
            self.progress("written answers", index + 1, len(sentences))

    def _agreements(self) -> Iterator[TeacherAgreement]:
        without = self._rank(self._spec(None, AGREEMENT_HISTORY), self.cases)
        sentences = self.catalogue.reasoning_guidance.sentences
        for index, sentence in enumerate(sentences):
            strategy = sentence.strategy
            if strategy is None:
                continue
            guided = self._rank(self._spec(index, AGREEMENT_HISTORY), self.cases)
            taus = self._taus(strategy, guided), self._taus(strategy, without)
            yield TeacherAgreement(
                reasoning=sentence.id,
                tau=float(taus[0].mean()),
                tau_without=float(taus[1].mean()),
                gain=estimate(taus[0] - taus[1], key=("lm-eval", sentence.id, self.seed)),
            )
            self.progress("teachers", index + 1, len(sentences))

    def _taus(self, strategy: str, rankings: Sequence[Sequence[str]]) -> npt.NDArray[np.float64]:
        """Return each user's tau-b of a ranking and the teacher's scores; a teacher that ties all agrees by 0."""
        taus = []
        for case, ranking in zip(self.cases, rankings, strict=True):
            scores = self._scores(strategy, case, ranking, AGREEMENT_HISTORY)
            taus.append(kendalltau(-np.arange(len(ranking)), scores).statistic)
        return np.nan_to_num(np.array(taus))

    def _scores(self, strategy: str, case: EvalCase, item_ids: Sequence[str], length: int) -> npt.NDArray[np.float32]:
        history = [self.index[item.item_id] for item in case.request.history[-length:]] if length else []
        return self.teachers.scores(strategy, history, [self.index[i] for i in item_ids])

    def _teacher_ranking(self, strategy: str, case: EvalCase, length: int) -> list[str]:
        ids = [item.item_id for item in case.request.candidates]
        return [ids[i] for i in np.argsort(-self._scores(strategy, case, ids, length), kind="stable")]

    def _spec(self, reasoning: int | None, length: int) -> PromptSpec:
        update = {"reasoning_guidance": reasoning, "history_length": length}
        return self.catalogue.manual_prompt.model_copy(update=update)

    def _assemble(self, case: EvalCase, spec: PromptSpec) -> AssembledPrompt:
        return assemble(case.request, spec, self.catalogue, seed=self.seed)

    def _rank(self, spec: PromptSpec, cases: Sequence[EvalCase]) -> list[list[str]]:
        prompts = [self._assemble(case, spec) for case in cases]
        scored = self.engine.rank_batch([p.messages for p in prompts], [p.labels for p in prompts])
        return [
            [prompt.shown[int(label) - 1].item_id for label in scores.ranking]
            for prompt, scores in zip(prompts, scored, strict=True)
        ]

    def _ndcg(self, case: EvalCase, ranking: Sequence[str]) -> float:
        return ndcg(ranking, {case.relevant_item_id}, self.n_candidates)
