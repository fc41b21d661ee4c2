"""Model folders: the weights that ship, and the finished folder that `transformers` loads.

Shipped are weights and item ids only. A data set's titles are its owner's, so the tokenizer, whose tokens they are, is
written on the user's machine from the data that the user downloaded.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import ValidationError
from transformers import LlamaForCausalLM

from promptailor.app.backends.embedded.tokenizer import Vocabulary, build_tokenizer
from promptailor.app.backends.embedded.vocabulary import data_vocabulary
from promptailor.evals.datasets import Dataset, load_dataset, load_spec
from promptailor.prompts.domain import Model
from promptailor.prompts.errors import CheckpointError, DataError, SpecError
from promptailor.prompts.patterns import Catalogue, load_catalogue

_WEIGHTS = resources.files("promptailor.app.backends.embedded").joinpath("weights")
WEIGHTS_FILES = ("model.safetensors", "config.json", "generation_config.json", "manifest.json", "MODEL_CARD.md")
_MANIFEST = "manifest.json"


class LmManifest(Model):
    """How an embedded model was made, and which token stands for which item."""

    schema_version: Literal[1] = 1
    dataset: str
    dataset_digest: str
    catalogue_digest: str
    vocabulary_digest: str
    """Of what the tokens stand for, titles included: the user's data must give the same."""
    seed: int
    n_parameters: int
    training: dict[str, int | float]
    """The `TrainingConfig`."""
    minutes: float
    """Wall clock of the training."""
    phrases: tuple[str, ...]
    words: tuple[str, ...]
    """The vocabulary that is not from the data set."""
    item_ids: tuple[str, ...]
    """In the order of their titles' tokens."""


def shipped_models() -> tuple[str, ...]:
    """Return the names of the models whose weights ship with the package."""
    return tuple(sorted(entry.name for entry in _WEIGHTS.iterdir() if entry.joinpath(_MANIFEST).is_file()))


def finished_folder(name: str, *, models_dir: Path, data_dir: Path) -> Path:
    """Return the folder that `transformers` loads, assembled on first use.

    Args:
        name: the path of a trained model's folder, one under `models_dir`, or a shipped model; looked up in this order.
        models_dir: where finished folders are kept.
        data_dir: where the data set is that the shipped weights were trained on.

    Raises:
        SpecError: there is no such model; the message lists those there are.
        DataError: the data set is not there, or is not the one the weights were trained on.
    """
    for folder in (Path(name), models_dir / name):
        if (folder / _MANIFEST).is_file():
            return folder
    if name not in shipped_models():
        known = ", ".join(shipped_models()) or "none"
        raise SpecError(
            f"embedded model {name!r}: there are {known}, or give the folder that `promptailor lm train --out` wrote"
        )
    folder = models_dir / "shipped" / name
    with resources.as_file(_WEIGHTS.joinpath(name)) as weights:
        manifest = read_manifest(weights)
        if not (folder / _MANIFEST).is_file() or read_manifest(folder) != manifest:
            finish(weights, load_dataset(load_spec(manifest.dataset), data_dir), load_catalogue(), folder)
    return folder


def read_manifest(folder: Path) -> LmManifest:
    """Read a model folder's manifest.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    path = folder / _MANIFEST
    try:
        return LmManifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}; make a model with `promptailor lm train`") from None
    except ValidationError as error:
        raise CheckpointError(f"{path}: {error.error_count()} damaged field(s); train the model again") from None


def write_weights(model: LlamaForCausalLM, manifest: LmManifest, card: str, folder: Path) -> None:
    """Write what may ship: weights, which it turns to half precision, configuration, manifest and model card."""
    model.half()  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    (folder / _MANIFEST).write_text(manifest.model_dump_json(indent=1), "utf-8")
    (folder / "MODEL_CARD.md").write_text(card, "utf-8")


def finish(weights: Path, dataset: Dataset, catalogue: Catalogue, folder: Path) -> None:
    """Write a finished folder: the weights, and the tokenizer made from the data set's titles.

    Raises:
        DataError: the data set does not give the titles that the weights were trained with.
    """
    manifest = read_manifest(weights)
    if missing := [item_id for item_id in manifest.item_ids if item_id not in dataset.items]:
        raise DataError(f"data set {dataset.name} lacks item {missing[0]!r}, which {weights.name} was trained on")
    vocabulary = data_vocabulary(manifest.phrases, manifest.words, manifest.item_ids, dataset, catalogue)
    if digest(vocabulary) != manifest.vocabulary_digest:
        raise DataError(
            f"data set {dataset.name}: titles differ from those {weights.name} was trained on; "
            f"`promptailor data check {dataset.name}` says how, `promptailor lm train` makes a model of this data"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        unfinished = Path(temporary) / folder.name
        unfinished.mkdir()
        for file in WEIGHTS_FILES:
            shutil.copyfile(weights / file, unfinished / file)
        build_tokenizer(vocabulary).save_pretrained(unfinished)
        if folder.exists():
            os.replace(folder, Path(temporary) / "outdated")
        os.replace(unfinished, folder)


def digest(vocabulary: Vocabulary) -> str:
    """Digest what every token stands for."""
    text = "\n".join((*vocabulary.phrases, "", *vocabulary.words, "", *vocabulary.lines))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
