"""How much a per-user prompt could gain at most: the reward matrices behind the report's gain decomposition."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2

from promptailor.app.progress import progress_bar
from promptailor.app.wiring import Workspace, train_inputs
from promptailor.evals.baselines.base import Method
from promptailor.evals.decomposition import Decomposition, RewardMatrices, decompose
from promptailor.evals.types import EvalCase
from promptailor.graph.context import Context
from promptailor.graph.rollout import GraphEvaluator, Progress
from promptailor.policies.base import Trial
from promptailor.policies.draws import uniform
from promptailor.policies.prompt_space import PromptSpace
from promptailor.policies.reward import ndcg
from promptailor.prompts.llm import Split
from promptailor.prompts.patterns import PromptSpec

N_SEGMENTS = 6
VALIDATION_USERS = 100
TEST_USERS = 200
"""The matrices cost a call per user, prompt and permutation, so they take the first of the users only."""


def measure_headroom(
    workspace: Workspace, policy: Method, cases: Sequence[EvalCase], n_prompts: int, seed: int
) -> Decomposition:
    """Score a sample of prompts for validation and test users and decompose the gain of a per-user policy.

    Nothing is learned or chosen for serving here: the labels are read to say what choosing by them would give.
    """
    cases = [case for case in cases if case.user_id not in set(policy.train_users)][:TEST_USERS]
    validation = workspace.cases(workspace.split.validation[:VALIDATION_USERS], len(cases[0].request.candidates), seed)
    specs = sample_prompts(workspace, n_prompts, seed)
    total = len(specs) * (2 * len(cases) + len(validation))
    with progress_bar("measuring headroom", total) as progress:
        segments, validation_segments = _segments(workspace, cases, validation, seed)
        ranked = policy.rank([case.request for case in cases])
        world = workspace.world
        matrices = RewardMatrices(
            rewards=_rewards(workspace, cases, specs, 0, "test", seed, progress),
            fresh=_rewards(workspace, cases, specs, 1, "test", seed, progress),
            validation=_rewards(workspace, validation, specs, 0, "validation", seed, progress),
            segments=segments,
            validation_segments=validation_segments,
            policy=np.array([
                ndcg(answer.ranking, [case.relevant_item_id], k=10) for answer, case in zip(ranked, cases, strict=True)
            ]),
            optimum=np.array([world.optimum([case.request]) for case in cases]) if world else None,
        )  # fmt: skip
    return decompose(matrices, seed=seed)


def sample_prompts(workspace: Workspace, n_prompts: int, seed: int) -> list[PromptSpec]:
    """Return the manual prompt and a keyed random sample of the joint prompt space."""
    space, manual = PromptSpace(workspace.catalogue), workspace.catalogue.manual_prompt
    others = sorted(
        (spec for spec in map(space.spec, space) if spec != manual),
        key=lambda spec: uniform("headroom", seed, spec.model_dump_json()),
    )
    return [manual, *others[: n_prompts - 1]]


def _rewards(
    workspace: Workspace,
    cases: Sequence[EvalCase],
    specs: Sequence[PromptSpec],
    sample_index: int,
    split: Split,
    seed: int,
    progress: Progress,
) -> NDArray[np.float64]:
    evaluator = GraphEvaluator(
        graph=workspace.graph(training=True),
        inputs_by_user={case.user_id: user for case, user in zip(cases, train_inputs(cases), strict=True)},
        context=Context(seed=seed, split=split),
        initial_length=workspace.catalogue.history_records.initial_length,
        progress=progress,
    )
    trials = [Trial(user_id=case.user_id, spec=spec, sample_index=sample_index) for case in cases for spec in specs]
    return np.array(evaluator.rewards(trials)).reshape(len(cases), len(specs))


def _segments(
    workspace: Workspace, cases: Sequence[EvalCase], validation: Sequence[EvalCase], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cluster validation users by embedding; a test user belongs to the nearest centre."""
    users = np.stack([workspace.embeddings.user(case.request.history) for case in (*validation, *cases)])
    centres, _ = kmeans2(users[: len(validation)].astype(np.float64), N_SEGMENTS, minit="++", seed=seed)
    labels = ((users[:, None, :] - centres[None]) ** 2).sum(axis=2).argmin(axis=1)
    return labels[len(validation) :], labels[: len(validation)]
