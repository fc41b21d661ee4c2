"""Servers that the tests of this folder share, started when first asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.servers import served_model, transformers_server
from tests.unit.app.backends.conftest import film_dataset, film_prompt, trained_lm

__all__ = ["film_dataset", "film_prompt", "trained_lm"]


@pytest.fixture(scope="session")
def planted_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The planted model; asks for `planted:1`."""
    with served_model("planted:1", tmp_path_factory.mktemp("planted")) as url:
        yield url


@pytest.fixture(scope="session")
def embedded_server(trained_lm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A tiny embedded model that ranks by first token where labels are given; asks for `embedded:FOLDER`."""
    with served_model(f"embedded:{trained_lm}", tmp_path_factory.mktemp("embedded")) as url:
        yield url


@pytest.fixture(scope="session")
def hf_server(trained_lm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The same weights behind `transformers serve`; asks for FOLDER."""
    with transformers_server(trained_lm, tmp_path_factory.mktemp("hf")) as url:
        yield url
