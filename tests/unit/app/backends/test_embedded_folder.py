"""Model folders: what ships, what the user's data add, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from promptailor.app.settings import Settings
from promptailor.evals.datasets import Dataset
from promptailor.prompts.errors import CheckpointError, DataError, SpecError
from promptailor.prompts.patterns import load_catalogue

pytest.importorskip("transformers")

from promptailor.app.backends import resolve_model
from promptailor.app.backends.embedded.folder import (
    WEIGHTS_FILES,
    finish,
    finished_folder,
    read_manifest,
    shipped_models,
)
from promptailor.app.backends.embedded.train import TrainingConfig, train_lm
from promptailor.app.backends.local.chat import LocalChat

TINY = TrainingConfig(hidden_size=96, n_layers=2, n_heads=4, intermediate_size=32, title_steps=1, steps=1, batch_size=2)


@pytest.fixture
def trained(trained_lm: Path) -> Path:
    return trained_lm


def test_what_ships_names_no_title(trained: Path, film_dataset: Dataset) -> None:
    shipped = b"".join((trained / file).read_bytes() for file in WEIGHTS_FILES)
    assert not any(item.title.encode() in shipped for item in film_dataset.items.values())
    assert "FilmĠ7".encode() in (trained / "tokenizer.json").read_bytes()


def test_the_manifest_says_how_it_was_made(trained: Path, film_dataset: Dataset) -> None:
    manifest = read_manifest(trained)
    assert manifest.dataset == "films"
    assert manifest.dataset_digest == film_dataset.digest
    assert manifest.catalogue_digest == load_catalogue().digest
    assert manifest.training == dataclasses.asdict(TINY)
    assert manifest.item_ids == tuple(film_dataset.items)
    assert f"{manifest.n_parameters:,} parameters" in (trained / "MODEL_CARD.md").read_text()


def test_finishing_gives_the_same_folder_whatever_order_the_items_stand_in(
    trained: Path, film_dataset: Dataset, tmp_path: Path
) -> None:
    turned = dataclasses.replace(film_dataset, items=dict(reversed(list(film_dataset.items.items()))))
    finish(trained, turned, load_catalogue(), tmp_path / "again")
    assert sorted(p.name for p in (tmp_path / "again").iterdir()) == sorted(p.name for p in trained.iterdir())
    assert (tmp_path / "again" / "tokenizer.json").read_bytes() == (trained / "tokenizer.json").read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["again"]


def test_finishing_replaces_an_outdated_folder(trained: Path, film_dataset: Dataset, tmp_path: Path) -> None:
    outdated = tmp_path / "films"
    outdated.mkdir()
    (outdated / "leftover").write_text("")
    finish(trained, film_dataset, load_catalogue(), outdated)
    assert not (outdated / "leftover").exists()
    assert read_manifest(outdated) == read_manifest(trained)


def test_other_titles_are_refused(trained: Path, film_dataset: Dataset, tmp_path: Path) -> None:
    items = dict(film_dataset.items)
    items["i3"] = items["i3"].model_copy(update={"title": "Another Film"})
    with pytest.raises(DataError, match="titles differ"):
        finish(trained, dataclasses.replace(film_dataset, items=items), load_catalogue(), tmp_path / "x")
    del items["i3"]
    with pytest.raises(DataError, match="lacks item 'i3'"):
        finish(trained, dataclasses.replace(film_dataset, items=items), load_catalogue(), tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_models_are_found_by_path_and_by_name(trained: Path, tmp_path: Path) -> None:
    assert finished_folder(str(trained), models_dir=tmp_path, data_dir=tmp_path) == trained
    assert finished_folder("films", models_dir=trained.parent, data_dir=tmp_path) == trained
    with pytest.raises(SpecError, match="lm train"):
        finished_folder("nothing", models_dir=tmp_path, data_dir=tmp_path)


def test_a_shipped_model_without_its_data_set_names_the_command(tmp_path: Path) -> None:
    for name in shipped_models():
        with pytest.raises(DataError, match=f"data get {name}|set PROMPTAILOR_DATA to a folder that holds"):
            finished_folder(name, models_dir=tmp_path / "models", data_dir=tmp_path / "data")


def test_a_damaged_manifest_is_an_error(trained: Path, tmp_path: Path) -> None:
    content = json.loads((trained / "manifest.json").read_text())
    del content["item_ids"]
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        read_manifest(tmp_path)


def test_options_are_checked(trained: Path) -> None:
    settings = Settings(PROMPTAILOR_HOME=trained)
    chat = resolve_model(f"embedded:{trained}?readout=text&max_batch_size=8", settings)
    assert isinstance(chat, LocalChat)
    assert (chat.readout, chat.max_batch_size, chat.threads) == ("text", 8, 1)
    with pytest.raises(SpecError, match="readout is text or structured or first_token"):
        resolve_model(f"embedded:{trained}?readout=best", settings)
    with pytest.raises(SpecError, match="threads is a whole number"):
        resolve_model(f"embedded:{trained}?threads=0", settings)


def test_the_weights_load_in_plain_transformers(trained: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(trained)
    model: Any = AutoModelForCausalLM.from_pretrained(trained)
    chat = [{"role": "user", "content": "Summarise this movie.\n<item>\n- Film 3\n</item>"}]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    prompt = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    assert 1 <= model.generate(prompt, max_new_tokens=3).shape[1] - prompt.shape[1] <= 3


def test_training_again_gives_the_same_weights(trained: Path, film_dataset: Dataset, tmp_path: Path) -> None:
    train_lm(film_dataset, load_catalogue(), tmp_path / "again", config=TINY)
    weights = "model.safetensors"
    assert (tmp_path / "again" / weights).read_bytes() == (trained / weights).read_bytes()


def test_training_never_reads_the_last_two_items(trained: Path, film_dataset: Dataset, tmp_path: Path) -> None:
    swapped = {user: (*s[:-2], "i0", "i59") for user, s in film_dataset.sequences.items()}
    train_lm(dataclasses.replace(film_dataset, sequences=swapped), load_catalogue(), tmp_path / "again", config=TINY)
    weights = "model.safetensors"
    assert (tmp_path / "again" / weights).read_bytes() == (trained / weights).read_bytes()
