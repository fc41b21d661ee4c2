"""Trigger words at serving: whose words are whose, and what a policy's file may hold."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from promptailor.policies.base import PolicyInfo
from promptailor.policies.pap_rec.policy import TriggerPolicy
from promptailor.policies.types import StateInputs
from promptailor.prompts.patterns import load_catalogue

INFO = PolicyInfo(name="pap-rec", version="test")
POLICY = TriggerPolicy(
    spec=load_catalogue().manual_prompt,
    info=INFO,
    words=("all", "of", "us"),
    personal={"ann": ("me",)},
    random=(("a", "b", "c"), ("d", "e", "f")),
)


def triggers(policy: TriggerPolicy, user_id: str) -> str:
    inputs = StateInputs(history=(), step=0, history_length=1, user_id=user_id)
    return policy.choose(inputs, key=(0, user_id, 0), explore=False).triggers


def test_a_user_without_words_of_their_own_gets_everybodys_in_their_place() -> None:
    assert triggers(POLICY, "ann") == "all of me"
    assert triggers(POLICY, "bob") == "all of us"
    assert triggers(POLICY.without_personal(), "ann") == "all of us"


def test_each_user_gets_one_of_the_random_draws_always_the_same() -> None:
    served = {f"u{n}": triggers(POLICY.at_random(), f"u{n}") for n in range(200)}
    counts = Counter(served.values())
    assert set(counts) == {"a b c", "d e f"}
    assert min(counts.values()) > 60
    assert served == {user: triggers(POLICY.at_random(), user) for user in served}


def test_where_no_words_helped_the_prompt_is_the_plain_one() -> None:
    bare = TriggerPolicy(spec=POLICY.spec, info=INFO, words=())
    assert triggers(bare, "ann") == ""


def test_a_policy_reads_back_what_it_saved(tmp_path: Path) -> None:
    POLICY.save(tmp_path)
    again = TriggerPolicy.load(tmp_path, INFO)
    assert again == POLICY
    assert again.digest == POLICY.digest
    assert POLICY.without_personal().digest != POLICY.digest


@pytest.mark.parametrize("word", ["two words", "line\nbreak", "", "x" * 61, "\x07bell", 7])
def test_a_file_cannot_bring_more_than_words(tmp_path: Path, word: object) -> None:
    POLICY.save(tmp_path)
    path = tmp_path / "policy.json"
    raw = json.loads(path.read_text("utf-8"))
    for place in ("words", "personal", "random"):
        hostile = {"words": [word], "personal": {"ann": [word]}, "random": [[word]]}[place]
        path.write_text(json.dumps(raw | {place: hostile}), "utf-8")
        with pytest.raises(ValueError, match="no word"):
            TriggerPolicy.load(tmp_path, INFO)
