"""Chat models that other packages bring: a model string's options as arguments, and their faults in one line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError

from promptailor.app.backends.spec import ModelSpec
from promptailor.prompts.errors import SpecError


def typed_arguments(spec: ModelSpec) -> dict[str, Any]:
    """Return the options with their values read as JSON: numbers, true and false, lists; anything else is text.

    Raises:
        SpecError: a readout that these models do not have.
    """
    if (readout := spec.text("readout") or "text") != "text":
        raise SpecError(
            f"--model {spec}: {spec.provider} models are read as text, not by {readout}; "
            "the other readouts need openai:, or a model in process"
        )
    return {name: _value(text) for name, text in spec.without("readout").options.items()}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


@contextmanager
def faults_of(spec: ModelSpec) -> Iterator[None]:
    """Turn whatever a vendor's class raises while it is made into one line.

    Raises:
        SpecError: in place of any exception.
    """
    try:
        yield
    except ValidationError as error:  # told without its input, among which may be a key from the environment
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise SpecError(_one_line(f"--model {spec}: {f'{place}: ' if place else ''}{first['msg']}")) from None
    except Exception as error:  # a missing package or key, each vendor in its own way
        raise SpecError(_one_line(f"--model {spec}: {error}")) from None


def _one_line(text: str) -> str:
    return " ".join(text.split())
