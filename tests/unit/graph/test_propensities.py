"""What a one-shot policy was likely to choose reaches the answer, and does not outlive its step."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from promptailor.app.backends.port import ModelPort
from promptailor.evals.types import EvalCase
from promptailor.graph.build import build_rank_graph
from promptailor.graph.context import Context
from promptailor.graph.resources import Resources
from promptailor.graph.state import RankInput, RankOutput
from promptailor.policies.bandit import FactoredBandit
from promptailor.policies.embeddings import ItemEmbeddings
from promptailor.policies.manual import manual_policies
from promptailor.policies.prompt_space import PromptSpace
from promptailor.prompts.patterns import PATTERNS, Catalogue


@pytest.fixture
def resources(catalogue: Catalogue, planted_port: ModelPort, cases: tuple[EvalCase, ...]) -> Resources:
    items = {item.item_id: item for case in cases for item in (*case.request.history, *case.request.candidates)}
    vectors = np.random.default_rng(0).standard_normal((len(items), 8)).astype(np.float32)
    tensors: dict[str, NDArray[np.float32]] = {
        "vectors": vectors,
        "weights": np.ones(len(items), np.float32),
        "user_mean": np.zeros(8, np.float32),
        "user_scale": np.ones(1, np.float32),
    }
    embeddings = ItemEmbeddings(tuple(items), tensors)
    bandit = FactoredBandit(PromptSpace(catalogue), embeddings)
    return Resources(
        catalogue=catalogue, recommender=planted_port, policies={**manual_policies(catalogue), "bandit": bandit}
    )


def test_a_drawn_prompt_says_how_likely_it_was(resources: Resources, cases: tuple[EvalCase, ...]) -> None:
    graph, request = build_rank_graph(resources), RankInput.of(cases[0].request)
    drawn = RankOutput.model_validate(graph.invoke(request, context=Context(policy="bandit", explore=True)))
    choices = drawn.steps[-1].choices
    assert set(choices) == set(PATTERNS)
    assert all(choice.probability and 0 < choice.probability <= 1 for choice in choices.values())
    assert choices["history_records"].action == drawn.steps[-1].history_length
    greedy = RankOutput.model_validate(graph.invoke(request, context=Context(policy="bandit")))
    assert {choice.probability for choice in greedy.steps[-1].choices.values()} == {None}
