"""The embedded recommender: a small language model of one catalogue that really follows the prompts it is given.

Importing this package imports torch; callers import it lazily.
"""

from __future__ import annotations

from promptailor.app.backends.embedded.chat import EmbeddedChat
from promptailor.app.backends.embedded.folder import finished_folder
from promptailor.app.backends.spec import ModelSpec
from promptailor.app.settings import Settings

__all__ = ["EmbeddedChat", "finished_folder", "load"]


def load(spec: ModelSpec, settings: Settings) -> EmbeddedChat:
    """Load an embedded model by name or folder.

    Raises:
        SpecError: no such model, or an option's value makes no sense.
        DataError: the shipped model's data set is not there.
    """
    spec.refuse_unknown("readout", "threads", "max_batch_size")
    return EmbeddedChat.from_folder(
        finished_folder(spec.model, models_dir=settings.models_dir, data_dir=settings.data_dir),
        readout=spec.choice("readout", EmbeddedChat.readouts, "first_token"),
        threads=spec.whole("threads", 1),
        max_batch_size=spec.whole("max_batch_size", 64),
        name=f"embedded:{spec.model}",
    )
