"""Ranking by gradient, over a white box whose loss is linear in what stands in the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml

from promptailor.app import wiring
from promptailor.app.backends.budget import Budget
from promptailor.app.sentences import rank
from promptailor.app.sentences.folder import SentencesConfig, read_proposals
from promptailor.app.sentences.propose import propose_sentences
from promptailor.policies.white_box import Floats, WhiteBoxPrompt
from promptailor.prompts.errors import BudgetExceededError, InputError, SpecError
from promptailor.prompts.llm import Message

OWN = {"role_playing": ["You are a {item} person by heart.", "You know each {item} here well."]}


class LinearBox:
    """Tokens are characters; the relevant candidate's chance is the mean of its text's values at the present place."""

    def vocabulary(self, kind: object, barred: object = ()) -> None:
        raise AssertionError("nobody asks for words")

    def encode(
        self, messages: Sequence[Message], *, labels: Sequence[str], relevant: int, triggers: Sequence[str]
    ) -> WhiteBoxPrompt:
        tokens = tuple(ord(c) % 97 for message in messages for c in message.content)
        return WhiteBoxPrompt(tokens=tokens, positions=(), labels=tuple(labels), relevant=relevant)

    def embed(self, tokens: Sequence[int]) -> Floats:
        return np.array([[token / 97, 1.0] for token in tokens])

    def label_log_probs(self, prompts: Sequence[WhiteBoxPrompt]) -> list[Floats]:
        found = []
        for prompt in prompts:
            loss = self._loss(prompt)
            others = np.log((1 - np.exp(-loss)) / (len(prompt.labels) - 1))
            log_probs = np.full(len(prompt.labels), others)
            log_probs[prompt.relevant] = -loss
            found.append(log_probs)
        return found

    def gradients(self, prompts: Sequence[WhiteBoxPrompt]) -> tuple[Floats, Floats]:
        losses = np.array([self._loss(prompt) for prompt in prompts])
        slopes = [[[0.01, 0.0]] * len(prompt.positions) for prompt in prompts]
        return losses, np.array(slopes)

    def _loss(self, prompt: WhiteBoxPrompt) -> float:
        return 1.0 + 0.01 * float(self.embed(prompt.tokens)[:, 0].sum())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(wiring, "PLANTED_USERS", 80)
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump(OWN))
    config = SentencesConfig(dataset="planted", model="planted:1", users=8, source=str(own))
    propose_sentences(config, tmp_path / "out", resume=False)
    return tmp_path / "out"


def test_proposals_are_put_into_the_foreseen_order(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank, "white_box", lambda workspace: LinearBox())
    ranking = rank.rank_sentences(folder).ranking
    foreseen = [sentence.predicted.mean for sentence in ranking.sentences]
    assert foreseen == sorted(foreseen, reverse=True)
    assert sum(sentence.proposed for sentence in ranking.sentences) == 2
    assert len(ranking.sentences) == 2 + 2  # the manual role stands in the prompt
    assert ranking.prompts == 5 * 8
    proposals = read_proposals(folder).proposals
    assert [p.estimate for p in proposals] == sorted((p.estimate or 0.0 for p in proposals), reverse=True)
    assert all(sentence.measured.mean for sentence in ranking.sentences)


def test_the_budget_is_reserved_before_anything_is_computed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank, "white_box", lambda workspace: LinearBox())
    with pytest.raises(BudgetExceededError):
        rank.rank_sentences(folder, budget=Budget(calls=39))
    assert rank.rank_sentences(folder, budget=Budget(calls=40)).ranking.n_users == 8


def test_a_model_without_gradients_is_an_error_in_one_line(folder: Path) -> None:
    with pytest.raises(SpecError, match="gradients"):
        rank.rank_sentences(folder)


def test_nothing_proposed_is_nothing_to_rank(folder: Path) -> None:
    content = yaml.safe_load((folder / "proposals.yaml").read_text()) | {"proposals": []}
    (folder / "proposals.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match="nothing"):
        rank.rank_sentences(folder)


def test_agreement_is_one_where_orders_are_equal_and_has_an_interval_elsewhere() -> None:
    rng = np.random.default_rng(3)
    worth = np.arange(6.0)[:, None]
    predicted = worth + rng.normal(0, 0.1, (6, 40))
    assert rank.rank_agreement(predicted, 3 * predicted, seed=0).low == pytest.approx(1.0)
    noise = rank.rank_agreement(rng.normal(size=(6, 40)), rng.normal(size=(6, 40)), seed=0)
    assert -1 <= noise.low < noise.mean < noise.high <= 1
    assert rank.rank_agreement(np.zeros((6, 4)), predicted[:, :4], seed=0).mean == 0
