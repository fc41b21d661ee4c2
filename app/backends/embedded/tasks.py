"""What the embedded model is taught beside ranking, read from `tasks.yaml`."""

from __future__ import annotations

from importlib import resources

import yaml
from pydantic import Field

from promptailor.prompts.domain import Model
from promptailor.prompts.patterns import SentencePattern


class SummariseTask(Model):
    """Describe one item; the answer's lines stand in this order."""

    instructions: tuple[str, ...] = Field(min_length=1)
    kinds: str
    decade: str
    similar: str


class ProfileTask(Model):
    """Describe a user by the shown history; the answer's lines stand in this order."""

    instructions: tuple[str, ...] = Field(min_length=1)
    kinds: str
    decades: str
    favourites: str


class Tasks(Model):
    """All tasks, checked."""

    schema_version: int
    paraphrases: dict[SentencePattern, dict[str, tuple[str, ...]]]
    """By pattern and sentence id; a sentence without an entry is never rewritten."""
    summarise: SummariseTask
    profile: ProfileTask


def load_tasks() -> Tasks:
    """Load the tasks that ship with the package."""
    text = resources.files("promptailor.app.backends.embedded").joinpath("tasks.yaml").read_text("utf-8")
    return Tasks.model_validate(yaml.safe_load(text))
