"""What tokens cost: a table of patterns, the user's own file before the one that comes with the package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from promptailor.app.backends.spec import ModelSpec
from promptailor.prompts.errors import InputError


class Price(BaseModel):
    """US dollars per million tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: float = Field(ge=0)
    output: float = Field(ge=0)

    def usd(self, input_tokens: int, output_tokens: int) -> float:
        """Return what a request costs."""
        return (self.input * input_tokens + self.output * output_tokens) / 1e6


_TABLE = TypeAdapter(dict[str, Price])


@dataclass(frozen=True)
class PriceTable:
    """Prices by pattern of `provider:model`; the first that matches counts."""

    prices: Mapping[str, Price]

    @classmethod
    def load(cls, own: Path | None = None) -> PriceTable:
        """Read the package's table, after the user's own where there is one.

        Raises:
            InputError: the user's file cannot be read, or is no such table.
        """
        shipped = resources.files("promptailor.app.backends").joinpath("prices.yaml").read_text("utf-8")
        prices = _TABLE.validate_python(yaml.safe_load(shipped))
        if own is None:
            return cls(prices)
        try:
            mine = _TABLE.validate_python(yaml.safe_load(own.read_text("utf-8")))
        except OSError as error:
            raise InputError(f"PROMPTAILOR_PRICES {own}: {error.strerror}") from None
        except (yaml.YAMLError, ValidationError, UnicodeDecodeError):
            raise InputError(
                f'PROMPTAILOR_PRICES {own}: write lines such as "openai:my-model": {{input: 0.1, output: 0.4}}'
            ) from None
        return cls(mine | {pattern: price for pattern, price in prices.items() if pattern not in mine})

    def of(self, spec: ModelSpec) -> Price | None:
        """Return a model's price; None where the table does not know it."""
        name = f"{spec.provider}:{spec.model}"
        return next((price for pattern, price in self.prices.items() if fnmatchcase(name, pattern)), None)
