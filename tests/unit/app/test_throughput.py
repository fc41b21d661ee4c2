"""Several models on the same prompts."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from promptailor.app.throughput import compare_models


def test_models_are_compared_on_the_same_prompts() -> None:
    comparison = compare_models(["planted:1", "planted:1?seed=1"], "planted")
    first, other = comparison.root
    assert (first.model, other.model) == ("planted:1", "planted:1?seed=1")
    assert first.valid == other.valid == 1.0
    assert first.tau == pytest.approx(1.0)
    assert other.tau < 1.0
    assert first.prompts_per_s > 0
    written = io.StringIO()
    Console(file=written, width=100).print(comparison)
    assert "planted:1?seed=1" in written.getvalue()
