"""Trigger words at the end of the prompt (PAP-REC, arXiv 2402.00284): some for everybody, some for one user.

The paper writes `{task} [Tr1]..[Trl] [Tu]`: words shared by all users, then one of the user's own. Here a user may have
any number of words of their own, and every such place has a shared word too, which users get whom nobody searched for;
the paper leaves them without.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from promptailor.policies.base import Decision, PolicyInfo
from promptailor.policies.draws import uniform
from promptailor.policies.types import StateInputs
from promptailor.prompts.patterns import PromptSpec

NAME = "pap-rec"
MAX_WORD_LENGTH = 60

Words = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TriggerPolicy:
    """A fixed prompt with trigger words; an `OneShotPolicy`."""

    kind: ClassVar[str] = NAME
    reads_embeddings: ClassVar[bool] = False
    spec: PromptSpec
    info: PolicyInfo
    words: Words
    """For everybody, those in the places of personal words last; empty where no words helped."""
    personal: Mapping[str, Words] = field(default_factory=dict)
    """By user: what stands in the last places instead."""
    random: tuple[Words, ...] = ()
    """Draws of equally many words, one of them where the search began: the baseline of the same length."""
    serves_random: bool = False

    def choose(self, inputs: StateInputs, *, key: tuple[str | int, ...], explore: bool) -> Decision:
        """Return the prompt with the user's words, or everybody's where the user has none."""
        words = self.words
        if self.serves_random:
            words = self.random[int(uniform("random triggers", inputs.user_id) * len(self.random))]
        elif own := self.personal.get(inputs.user_id):
            words = (*words[: len(words) - len(own)], *own)
        return Decision(spec=self.spec, triggers=" ".join(words))

    def without_personal(self) -> TriggerPolicy:
        """Return the policy with everybody's words only."""
        return replace(self, personal={})

    def at_random(self) -> TriggerPolicy:
        """Return the baseline: each user gets one of the random draws."""
        return replace(self, personal={}, serves_random=True)

    @property
    def digest(self) -> str:
        """Hex digest of the prompt and all words."""
        return hashlib.sha256(json.dumps(self._content, sort_keys=True).encode()).hexdigest()[:16]

    def save(self, folder: Path) -> None:
        """Write `policy.json`."""
        (folder / "policy.json").write_text(json.dumps(self._content, indent=1, ensure_ascii=False) + "\n", "utf-8")

    @classmethod
    def load(cls, folder: Path, info: PolicyInfo) -> TriggerPolicy:
        """Read what `save` wrote; use `checkpoint.load_policy`, which checks that the files fit."""
        raw = json.loads((folder / "policy.json").read_text("utf-8"))
        words = _checked(raw["words"])
        personal = {str(user): _checked(own) for user, own in raw["personal"].items()}
        if too_many := [user for user, own in personal.items() if len(own) > len(words)]:
            raise ValueError(f"user {too_many[0]!r} has more words than there are places")
        return cls(
            spec=PromptSpec.model_validate(raw["spec"]),
            words=words,
            personal=personal,
            random=tuple(map(_checked, raw["random"])),
            info=info,
        )

    @property
    def _content(self) -> dict[str, Any]:
        return {
            "spec": self.spec.model_dump(),
            "words": list(self.words),
            "personal": {user: list(own) for user, own in self.personal.items()},
            "random": [list(words) for words in self.random],
        }


def _checked(words: list[str]) -> Words:
    """Refuse what no search writes, such as line breaks by which a file could add lines to a prompt."""
    for word in words:
        if not (isinstance(word, str) and 0 < len(word) <= MAX_WORD_LENGTH and word.isprintable() and " " not in word):
            raise ValueError(f"trigger {word!r} is no word")
    return tuple(words)
