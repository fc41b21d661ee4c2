"""The policy that serves where none is named: RPP, trained once on the embedded model, so that prompts evolve at once.

It costs about half a minute of one core and no money: models of other processes are never asked without being told to.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from promptailor.app.backends.connect import content_spec
from promptailor.app.job import TrainConfig
from promptailor.app.run_folder import POLICY
from promptailor.app.settings import Settings
from promptailor.app.training import run_training_job
from promptailor.policies.checkpoint import MANIFEST, SCHEMA_VERSION
from promptailor.prompts.patterns import load_catalogue

NAME = "rpp"
EMBEDDED = "embedded"


def first_policy(settings: Settings, model: str, dataset: str) -> Path:
    """Return the folder of the trained policy; train it where this home folder has none for the model and catalogue.

    Raises:
        DataError: the data set is not here.
    """
    config = TrainConfig(policy=NAME, dataset=dataset, model=model, users=200, calls=1_500, steps=3)
    content = f"{SCHEMA_VERSION}\0{load_catalogue().digest}\0{config.model_dump_json(exclude_defaults=True)}"
    folder = settings.home / "served" / f"{NAME}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
    if not (folder / POLICY / MANIFEST).is_file():
        draft = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.rmtree(draft, ignore_errors=True)
        try:
            run_training_job(config, draft, resume=False)
            draft.rename(folder)
        except OSError:  # another server was quicker
            if not folder.is_dir():
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return folder


def trains_itself(model: str) -> bool:
    """Whether a model is of this process and ships with a data set, so that training on it costs nobody anything."""
    return content_spec(model).provider == EMBEDDED
