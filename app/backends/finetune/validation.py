"""What fine-tuning gained, measured on validation users; test users are never asked."""

from __future__ import annotations

from collections.abc import Sequence

from peft import PeftModel

from promptailor.app.backends.finetune.folder import Validation
from promptailor.app.backends.local.engine import Engine
from promptailor.app.progress import progress_bar
from promptailor.evals.datasets import Dataset
from promptailor.evals.protocol import make_cases, split_users
from promptailor.evals.statistics import estimate
from promptailor.evals.types import EvalCase
from promptailor.graph.rollout import Progress as Advance
from promptailor.policies.reward import ndcg
from promptailor.prompts.assemble import assemble
from promptailor.prompts.errors import DataError
from promptailor.prompts.patterns import Catalogue

MAX_USERS = 200
_MIN_USERS = 2
_AT_ONCE = 64


def validation_cases(dataset: Dataset, seed: int) -> tuple[EvalCase, ...]:
    """Make the cases of the first validation users: their second-to-last items, which serve model selection.

    Raises:
        DataError: there are too few validation users for an interval, or too few items for candidates.
    """
    users = split_users(dataset).validation[:MAX_USERS]
    if len(users) < _MIN_USERS:
        raise DataError(f"data set {dataset.name}: {len(users)} validation user(s); at least {_MIN_USERS} are needed")
    return make_cases(dataset, users, seed=seed, hold_out="second_last")


def validate(
    adapted: PeftModel, engine: Engine, cases: Sequence[EvalCase], catalogue: Catalogue, *, seed: int
) -> Validation:
    """Rank the cases without and with the adapter, which sits in the engine's model."""
    adapted.train(False)
    with progress_bar("validating", 2 * len(cases)) as advance:
        with adapted.disable_adapter():
            before = _scores(engine, cases, catalogue, seed, advance)
        after = _scores(engine, cases, catalogue, seed, advance)
    key = ("finetune", seed)
    return Validation(
        user_ids=tuple(case.user_id for case in cases),
        before=estimate(before, key=(*key, "before")),
        after=estimate(after, key=(*key, "after")),
        gain=estimate([a - b for a, b in zip(after, before, strict=True)], key=(*key, "gain")),
    )


def _scores(
    engine: Engine, cases: Sequence[EvalCase], catalogue: Catalogue, seed: int, advance: Advance
) -> list[float]:
    """Return NDCG@10 of each case."""
    scores = []
    for start in range(0, len(cases), _AT_ONCE):
        some = cases[start : start + _AT_ONCE]
        prompts = [assemble(case.request, catalogue.manual_prompt, catalogue, seed=seed) for case in some]
        read = engine.rank_batch([prompt.messages for prompt in prompts], [prompt.labels for prompt in prompts])
        for case, prompt, of_prompt in zip(some, prompts, read, strict=True):
            ranked = [prompt.shown[int(label) - 1].item_id for label in of_prompt.ranking]
            scores.append(ndcg(ranked, {case.relevant_item_id}, 10))
        advance(len(some))
    return scores
