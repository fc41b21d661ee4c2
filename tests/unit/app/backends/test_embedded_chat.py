"""An embedded model is an ordinary local model: by its own name and by its folder's it answers the same."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from promptailor.app.settings import Settings
from promptailor.evals.datasets import Dataset, load_dataset, load_spec
from promptailor.evals.protocol import make_cases
from promptailor.prompts.assemble import AssembledPrompt, assemble
from promptailor.prompts.errors import DataError
from promptailor.prompts.parse import parse_ranking
from promptailor.prompts.patterns import load_catalogue

pytest.importorskip("transformers")

from langchain_core.messages import HumanMessage, SystemMessage
from transformers import PreTrainedTokenizerFast

from promptailor.app.backends import resolve_model
from promptailor.app.backends.embedded.folder import finished_folder
from promptailor.app.backends.embedded.tokenizer import PromptEncoder
from promptailor.app.backends.local.chat import LocalChat
from promptailor.app.backends.ranking_chat import READOUTS, Readout

FilmPrompt = Callable[..., AssembledPrompt]


def load(spec: str) -> LocalChat:
    chat = resolve_model(spec, Settings())
    assert isinstance(chat, LocalChat)
    return chat


def answers(
    chat: LocalChat, prompts: Sequence[AssembledPrompt], max_new_tokens: int = 40
) -> list[tuple[str, dict[str, float]]]:
    calls = [[SystemMessage(p.system), HumanMessage(p.user)] for p in prompts]
    given = [
        chat.invoke(call, labels=p.labels, max_new_tokens=max_new_tokens)
        for call, p in zip(calls, prompts, strict=True)
    ]
    return [(answer.text, answer.response_metadata.get("label_log_probs", {})) for answer in given]


@pytest.mark.parametrize("readout", READOUTS)
def test_by_both_names_it_answers_the_same(trained_lm: Path, film_prompt: FilmPrompt, readout: Readout) -> None:
    prompts = [film_prompt(f"u{n}", n_history=n, n_candidates=3 + n) for n in range(5)]
    embedded = load(f"embedded:{trained_lm}?readout={readout}")
    local = load(f"transformers:{trained_lm}?device=cpu&readout={readout}")
    assert answers(embedded, prompts, 8) == answers(local, prompts, 8)


def test_its_prompts_are_encoded_as_in_training(random_lm: Path, film_prompt: FilmPrompt) -> None:
    own = PromptEncoder(PreTrainedTokenizerFast.from_pretrained(random_lm))
    chat = load(f"transformers:{random_lm}?device=cpu")
    for n in range(13):
        prompt = film_prompt(f"u{n}", n_history=n, n_candidates=4 + n)
        assert chat.engine.encode(prompt.messages) == own.messages(prompt.messages)
    assert {label: tokens for label, (tokens,) in chat.engine.labels.first.items()} == own.label_ids


def test_its_fingerprint_is_the_weights(trained_lm: Path) -> None:
    weights = hashlib.sha256((trained_lm / "model.safetensors").read_bytes()).hexdigest()
    assert load(f"embedded:{trained_lm}").fingerprint == weights[:16]


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    folder = os.environ.get("PROMPTAILOR_DATA")
    if not folder:
        pytest.skip("PROMPTAILOR_DATA names no folder of data sets")
    try:
        return load_dataset(load_spec("ml-100k"), Path(folder))
    except DataError as error:
        pytest.skip(str(error))


@pytest.mark.slow
def test_where_the_shipped_model_is_sure_its_readouts_agree(dataset: Dataset, tmp_path: Path) -> None:
    catalogue = load_catalogue()
    cases = make_cases(dataset, list(dataset.sequences)[:150], seed=0)
    prompts = [assemble(case.request, catalogue.manual_prompt, catalogue, seed=0) for case in cases]
    folder = finished_folder("ml-100k", models_dir=tmp_path, data_dir=Path(os.environ["PROMPTAILOR_DATA"]))
    first, tops = {}, {}
    for readout in READOUTS:
        embedded, local = (
            load(f"{kind}:{folder}?readout={readout}&threads=1") for kind in ("embedded", "transformers")
        )
        given = answers(embedded, prompts)
        assert given == answers(local, prompts)
        first[readout] = [parse_ranking(text, p.shown).order[0] for (text, _), p in zip(given, prompts, strict=True)]
        tops[readout] = [max(log_probs.values(), default=0.0) for _, log_probs in given]
    sure = [i for i, top in enumerate(tops["first_token"]) if top > np.log(0.7)]
    assert len(sure) >= 20
    for readout in ("text", "structured"):
        agree = [first[readout][i] == first["first_token"][i] for i in sure]
        assert np.mean(agree) == 1.0
