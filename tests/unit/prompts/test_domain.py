"""The domain models: what they refuse, and that they cannot change."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from promptailor.prompts.domain import Item, ParseReport, RankedItem, RankRequest, UserProfile

REQUEST: dict[str, Any] = {
    "user_id": "u1",
    "history": [{"item_id": "h1", "title": "Heat"}],
    "candidates": [{"item_id": "c1", "title": "Alien", "categories": ["Horror"]}],
    "domain": "movies",
}


def test_a_request_survives_json() -> None:
    request = RankRequest.model_validate(REQUEST)
    assert RankRequest.model_validate_json(request.model_dump_json()) == request
    assert request.candidates[0].categories == ("Horror",)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"candidates": []}, "candidates"),
        ({"user_id": ""}, "user_id"),
        ({"user_id": 1.5}, "user_id"),
        ({"user_id": None}, "user_id"),
        ({"history": "Heat"}, "history"),
        ({"candidates": [{"item_id": "c1"}]}, "title"),
        ({"candidates": [{"item_id": "c1", "title": ""}]}, "title"),
        ({"candidates": [{"item_id": "c1", "title": "x" * 200_001}]}, "title"),
        ({"candidates": [{"item_id": "c1", "title": "broken \ud800"}]}, "title"),
        ({"relevant_item_ids": ["c1"]}, "relevant_item_ids"),
        ({"candidates": [{"item_id": "c1", "title": "Alien", "relevant": True}]}, "relevant"),
    ],
)
def test_bad_input_is_refused_by_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as error:
        RankRequest.model_validate(REQUEST | change)
    assert error.value.errors()[0]["loc"][-1] == field


def test_whole_numbers_are_ids() -> None:
    assert Item.model_validate({"item_id": 7, "title": "Seven"}).item_id == "7"
    assert RankRequest.model_validate(REQUEST | {"user_id": 42}).user_id == "42"


def test_a_request_has_no_place_for_the_truth() -> None:
    assert not {name for name in RankRequest.model_fields if "relevant" in name or "target" in name}


@pytest.mark.parametrize(
    "model", [Item(item_id="a", title="A"), UserProfile(), RankedItem(item_id="a", title="A", rank=1), ParseReport()]
)
def test_models_are_frozen(model: Any) -> None:
    name = next(iter(type(model).model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(model, name, "other")


@pytest.mark.parametrize("repair", ["n_unknown", "n_duplicate", "n_missing"])
def test_an_answer_that_needed_repair_is_not_valid(repair: str) -> None:
    assert ParseReport().valid
    assert not ParseReport(**{repair: 1}).valid
