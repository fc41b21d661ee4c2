"""Policies that search a prompt for each request; they are made from their settings, not from a run's folder."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ValidationError

from promptailor.policies.base import SearchingPolicy
from promptailor.policies.best_of_k import BestOfK, BestOfKConfig
from promptailor.policies.grips import Grips, GripsConfig
from promptailor.policies.prompt_space import PromptSpace
from promptailor.prompts.errors import SpecError
from promptailor.prompts.patterns import Catalogue

PER_REQUEST = ("grips", "best-of-k")
_CONFIGS: Mapping[str, type[GripsConfig | BestOfKConfig]] = {"grips": GripsConfig, "best-of-k": BestOfKConfig}


def search_settings(name: str, settings: Mapping[str, str]) -> dict[str, str]:
    """Return those settings that are the search's own; the others say how its prompt is served."""
    return {key: value for key, value in settings.items() if key in _CONFIGS[name].model_fields}


def searching_policy(name: str, catalogue: Catalogue, settings: Mapping[str, str] | None = None) -> SearchingPolicy:
    """Make a searching policy; a setting of the wrong kind is a `SpecError`."""
    try:
        config = _CONFIGS[name].model_validate(search_settings(name, settings or {}))
    except ValidationError as error:
        first = error.errors()[0]
        raise SpecError(f"{name}?{'.'.join(map(str, first['loc']))}=: {first['msg']}") from None
    if isinstance(config, GripsConfig):
        return Grips(catalogue=catalogue, config=config)
    return BestOfK(space=PromptSpace(catalogue), config=config)
