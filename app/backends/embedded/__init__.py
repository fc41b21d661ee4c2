"""The embedded recommender: a small language model of one catalogue that really follows the prompts it is given.

Its finished folder is an ordinary one of `transformers`, and it runs as any local model does. Importing this package
imports torch; callers import it lazily.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging

from promptailor.app.backends.embedded.folder import finished_folder
from promptailor.app.backends.local.chat import LocalChat
from promptailor.app.backends.local.engine import Engine
from promptailor.app.backends.local.loading import fingerprint
from promptailor.app.backends.spec import ModelSpec
from promptailor.app.settings import Settings

__all__ = ["finished_folder", "load"]


def load(spec: ModelSpec, settings: Settings) -> LocalChat:
    """Load an embedded model by name or folder.

    Raises:
        SpecError: no such model, or an option's value makes no sense.
        DataError: the shipped model's data set is not there.
    """
    spec.refuse_unknown("readout", "threads", "max_batch_size")
    folder = finished_folder(spec.model, models_dir=settings.models_dir, data_dir=settings.data_dir)
    with _quietly():
        engine = Engine.from_folder(folder)
    # Rotary positions have no end: titles that nobody has trained on take many tokens, and are ranked all the same.
    engine.context = None
    return LocalChat.of(
        engine,
        readout=spec.choice("readout", LocalChat.readouts, "first_token"),
        threads=spec.whole("threads", 1),
        max_batch_size=spec.whole("max_batch_size", 64),
        model_name=f"embedded:{spec.model}",
        fingerprint=fingerprint(folder / "model.safetensors"),  # the tokenizer is made for these weights
    )


@contextmanager
def _quietly() -> Iterator[None]:
    """Show no progress bar: a few megabytes are read at once, and the bar would stand before every answer."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
