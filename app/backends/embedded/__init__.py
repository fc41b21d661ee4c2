"""The embedded recommender: a small language model of one catalogue that really follows the prompts it is given.

Importing this package imports torch; callers import it lazily.
"""

from __future__ import annotations

from collections.abc import Mapping

from promptailor.app.backends.embedded.chat import READOUTS, EmbeddedChat, Readout
from promptailor.app.backends.embedded.folder import finished_folder
from promptailor.app.settings import Settings
from promptailor.prompts.errors import SpecError

__all__ = ["EmbeddedChat", "Readout", "finished_folder", "load_embedded"]


def load_embedded(name: str, *, settings: Settings, options: Mapping[str, str]) -> EmbeddedChat:
    """Load an embedded model by name or folder.

    Args:
        name: what follows `embedded:` in a model string.
        settings: where data sets and finished models are.
        options: `readout` (`first_token` or `text`), `threads`, `max_batch_size`.

    Raises:
        SpecError: no such model, or an option's value makes no sense.
        DataError: the shipped model's data set is not there.
    """
    readout = next((r for r in READOUTS if r == options.get("readout", "first_token")), None)
    if readout is None:
        raise SpecError(f"embedded:{name}: readout is {' or '.join(READOUTS)}, not {options['readout']!r}")
    return EmbeddedChat.from_folder(
        finished_folder(name, models_dir=settings.models_dir, data_dir=settings.data_dir),
        readout=readout,
        threads=_positive(name, options, "threads", 1),
        max_batch_size=_positive(name, options, "max_batch_size", 64),
        name=f"embedded:{name}",
    )


def _positive(name: str, options: Mapping[str, str], option: str, default: int) -> int:
    text = options.get(option, str(default))
    if not (text.isdecimal() and int(text)):
        raise SpecError(f"embedded:{name}: {option} is a whole number above 0, not {text!r}")
    return int(text)
