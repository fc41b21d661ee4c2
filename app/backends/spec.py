"""The string that names a model: `provider:model?option=value&option=value`, as in `embedded:ml-100k?readout=text`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import parse_qsl, quote

from promptailor.prompts.errors import SpecError

Choice = TypeVar("Choice", bound=str)

_SECRET_OPTION = re.compile(r"(^|_)(key|secret|password|token)$")
_CREDENTIALS = re.compile(r"://[^/]*@")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A parsed model string; its readers of options refuse, in one line, what makes no sense."""

    provider: str
    model: str
    options: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> ModelSpec:
        """Split `provider:model?options`; a `SpecError` where there is no provider, or a key among the options."""
        name, _, query = text.partition("?")
        provider, colon, model = name.partition(":")
        if not (colon and provider and model):
            raise SpecError(f"--model {text!r}: write provider:model, such as embedded:ml-100k or openai:gpt-4o-mini")
        options = dict(parse_qsl(query, keep_blank_values=True))
        for option, value in options.items():  # model strings stand in manifests, reports and traces
            if _SECRET_OPTION.search(option) or _CREDENTIALS.search(value):
                raise SpecError(f"--model {provider}:{model}: {option} holds a key; put keys into the environment")
        return cls(provider=provider, model=model, options=options)

    def __str__(self) -> str:
        """Write the string that parses back to this spec, options sorted."""
        query = "&".join(f"{k}={quote(v, safe=':/,')}" for k, v in sorted(self.options.items()))
        return f"{self.provider}:{self.model}" + (f"?{query}" if query else "")

    def refuse_unknown(self, *known: str) -> None:
        """Raise a `SpecError` for an option the provider does not have."""
        for option in self.options:
            if option not in known:
                raise SpecError(
                    f"--model {self}: unknown option {option!r}; {self.provider} has {', '.join(known) or 'none'}"
                )

    def without(self, *names: str) -> ModelSpec:
        """Return the spec without some options."""
        kept = {name: value for name, value in self.options.items() if name not in names}
        return ModelSpec(provider=self.provider, model=self.model, options=kept)

    def text(self, option: str) -> str | None:
        """Return an option's text; None where it is not given or empty."""
        return self.options.get(option) or None

    def whole(self, option: str, default: int) -> int:
        """Return a whole number above 0."""
        value = self.options.get(option, str(default))
        if not (value.isdecimal() and int(value)):
            raise SpecError(f"--model {self}: {option} is a whole number above 0, not {value!r}")
        return int(value)

    def number(self, option: str, default: float) -> float:
        """Return a number that is not negative."""
        value = self.options.get(option, str(default))
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if not 0.0 <= number < float("inf"):
            raise SpecError(f"--model {self}: {option} is a number from 0, not {value!r}")
        return number

    def choice(self, option: str, choices: Sequence[Choice], default: Choice) -> Choice:
        """Return one of some words."""
        value = self.options.get(option, default)
        for choice in choices:
            if choice == value:
                return choice
        raise SpecError(f"--model {self}: {option} is {' or '.join(choices)}, not {value!r}")
