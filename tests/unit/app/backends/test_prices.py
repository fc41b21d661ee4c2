"""The table of prices."""

from __future__ import annotations

from pathlib import Path

import pytest

from promptailor.app.backends.prices import Price, PriceTable
from promptailor.app.backends.spec import ModelSpec
from promptailor.prompts.errors import InputError


def test_the_most_special_pattern_stands_first() -> None:
    prices = PriceTable.load()
    mini, large = (prices.of(ModelSpec.parse(f"openai:{m}")) for m in ("gpt-4o-mini-2024-07-18", "gpt-4o-2024-08-06"))
    assert mini is not None
    assert large is not None
    assert mini.input < large.input
    patterns = list(prices.prices)
    for place, pattern in enumerate(patterns):
        stem = pattern.rstrip("*")
        assert not any(stem.startswith(earlier.rstrip("*")) for earlier in patterns[:place]), pattern


def test_models_that_run_here_are_free_and_unknown_ones_have_no_price() -> None:
    prices = PriceTable.load()
    assert prices.of(ModelSpec.parse("embedded:ml-100k")) == Price(input=0, output=0)
    assert prices.of(ModelSpec.parse("openai:a-server-of-ones-own")) is None


def test_ones_own_prices_come_first(tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text('"openai:gpt-4o-mini": {input: 1, output: 2}\n"openai:mine": {input: 3, output: 4}\n')
    prices = PriceTable.load(path)
    found = prices.of(ModelSpec.parse("openai:gpt-4o-mini"))
    assert found is not None
    assert found.usd(2_000_000, 500_000) == 3.0
    assert prices.of(ModelSpec.parse("openai:mine")) == Price(input=3, output=4)


@pytest.mark.parametrize("text", ["- a list", "openai:m: cheap", "openai:m: {input: -1, output: 0}", "{"])
def test_a_file_that_is_no_table_is_a_one_line_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"PROMPTAILOR_PRICES .*: write lines such as"):
        PriceTable.load(path)
