"""States are what Eq. 3 and 4 say, and a row never depends on the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from promptailor.policies.state_encoder import (
    CONTEXT_SCALE,
    StateEncoder,
    StateFeatures,
    StateReader,
)
from promptailor.policies.types import Pooling, StateInputs, StateKind

if TYPE_CHECKING:
    from tests.unit.policies.conftest import HashEncoder, ToyWorld


@pytest.fixture
def steps(toy: ToyWorld) -> list[StateInputs]:
    """A first state, and two later ones with rankings of different lengths."""
    first = toy.inputs("a-user-0")
    later = [
        StateInputs(
            history=first.history,
            step=t,
            history_length=2 * t,
            sentences=("You are an expert.", f"Think {t} times."),
            prompt=f"You are an expert. Think {t} times. 1. this 2. that",
            ranking=toy.history("b-user-1")[: 3 * t],
        )
        for t in (1, 2)
    ]
    return [first, *later]


def encoder_for(kind: StateKind, pooling: Pooling, toy: ToyWorld, text: HashEncoder) -> StateEncoder:
    torch.manual_seed(0)
    return StateEncoder(kind, pooling, dimension=toy.embeddings.dimension, text_dimension=text.dimension)


def read(kind: StateKind, steps: list[StateInputs], toy: ToyWorld, text: HashEncoder) -> list[StateFeatures]:
    reader = StateReader(kind, toy.embeddings, text, toy.catalogue)
    return [reader.read(step) for step in steps]


def test_the_papers_state_is_the_user_and_then_prompt_plus_ranking(
    toy: ToyWorld, text_encoder: HashEncoder, steps: list[StateInputs]
) -> None:
    encoder = encoder_for("paper", "gru", toy, text_encoder)
    first, second, _ = read("paper", steps, toy, text_encoder)
    user = torch.from_numpy(toy.embeddings.user(steps[0].history))
    assert torch.equal(encoder(first)[0], user)
    assert encoder.gru is not None
    _, last_hidden = encoder.gru(torch.from_numpy(toy.embeddings.matrix(steps[1].ranking))[None])
    prompt = encoder.project(torch.tensor(text_encoder.encode([steps[1].prompt])))
    assert torch.allclose(encoder(second), prompt + last_hidden[0])


def test_the_full_state_keeps_the_user_and_reads_the_sentences(
    toy: ToyWorld, text_encoder: HashEncoder, steps: list[StateInputs]
) -> None:
    encoder = encoder_for("full", "mean", toy, text_encoder)
    features = read("full", steps, toy, text_encoder)[2]
    state = encoder(features)[0]
    assert state.shape == (encoder.state_dim,)
    dimension = toy.embeddings.dimension
    assert torch.equal(state[:dimension], torch.from_numpy(toy.embeddings.user(steps[0].history)))
    sentences = torch.tensor(text_encoder.encode(steps[2].sentences)).mean(dim=0)
    assert torch.allclose(state[dimension:-3][:-dimension], CONTEXT_SCALE * encoder.project(sentences), atol=1e-6)
    ranked = torch.from_numpy(toy.embeddings.matrix(steps[2].ranking)).mean(dim=0)
    assert torch.allclose(state[-3 - dimension : -3], CONTEXT_SCALE * ranked, atol=1e-6)


@pytest.mark.parametrize("kind", ["full", "paper"])
@pytest.mark.parametrize("pooling", ["gru", "mean"])
def test_a_row_is_the_same_alone_and_beside_longer_rankings(
    kind: StateKind, pooling: Pooling, toy: ToyWorld, text_encoder: HashEncoder, steps: list[StateInputs]
) -> None:
    encoder = encoder_for(kind, pooling, toy, text_encoder)
    rows = read(kind, steps, toy, text_encoder)
    together = encoder(StateFeatures.concatenate(rows))
    for row, state in zip(rows, together, strict=True):
        assert torch.allclose(encoder(row)[0], state, atol=1e-6)


def test_counters_carry_length_cap_and_step(toy: ToyWorld, text_encoder: HashEncoder, steps: list[StateInputs]) -> None:
    shorter = toy.catalogue.history_records.model_copy(update={"max_length": 5})
    catalogue = toy.catalogue.model_copy(update={"history_records": shorter})
    reader = StateReader("full", toy.embeddings, text_encoder, catalogue)
    assert reader.read(steps[2]).counters.tolist() == [[4.0, 5.0, 2.0, 0.0]]
    assert reader.read(steps[0]).counters.tolist() == [[1.0, 5.0, 0.0, 0.0]]
