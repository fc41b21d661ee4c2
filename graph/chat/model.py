"""Reading a message with a chat model, where one is set: its answer counts only where it is JSON of the right shape.

Everything in it is looked up in the catalogue and in the last list, so a model that was talked into something by a
message can at most wish for kinds and titles that exist. Where it fails, the rules read the message and say why.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from pydantic import BaseModel, Field, ValidationError

from promptailor.graph.chat.rules import ChatRules
from promptailor.graph.chat.state import Understood
from promptailor.prompts.assemble import clean_text, clean_title, fence
from promptailor.prompts.chat import MAX_MESSAGE_LENGTH, Act, tokens
from promptailor.prompts.domain import Item
from promptailor.prompts.errors import BudgetExceededError, ModelCallError
from promptailor.prompts.llm import ChatPort, Completion, Message, ModelCall, Split

MOST_KINDS = 60
"""That the model is told of."""
_MOST = 20
"""Entries of a list in its answer that are read."""


class _Answer(BaseModel):
    """What a model may answer; unknown keys are passed over."""

    act: Act = "recommend"
    wanted: list[str] = Field(default_factory=list, max_length=_MOST)
    avoided: list[str] = Field(default_factory=list, max_length=_MOST)
    lessened: list[str] = Field(default_factory=list, max_length=_MOST)
    from_year: int | None = Field(None, ge=1000, le=3000)
    to_year: int | None = Field(None, ge=1000, le=3000)
    like: list[str | int] = Field(default_factory=list, max_length=_MOST)
    liked: list[str | int] = Field(default_factory=list, max_length=_MOST)
    disliked: list[str | int] = Field(default_factory=list, max_length=_MOST)
    seen: list[str | int] = Field(default_factory=list, max_length=_MOST)


@dataclass(frozen=True, kw_only=True)
class ChatReader:
    """Reads messages: a model first where there is one, the rules otherwise."""

    rules: ChatRules
    domain_words: Mapping[str, str]
    model: ChatPort | None = None

    def read(self, text: str, shown: Sequence[Item], split: Split) -> Understood:
        """Read one message; `shown` is the last list, best first."""
        by_rules = self.rules.read(text, [item.item_id for item in shown])
        if self.model is None or not text.strip():
            return by_rules
        try:
            completion = self.model.complete(self.call(text, shown, split))
        except (BudgetExceededError, ModelCallError) as error:
            return by_rules.model_copy(update={"fallback": str(error)})
        return self._judge(completion, by_rules, shown)

    async def aread(self, text: str, shown: Sequence[Item], split: Split) -> Understood:
        """Do what `read` does without holding up the event loop."""
        by_rules = self.rules.read(text, [item.item_id for item in shown])
        if self.model is None or not text.strip():
            return by_rules
        try:
            completion = await self.model.acomplete(self.call(text, shown, split))
        except (BudgetExceededError, ModelCallError) as error:
            return by_rules.model_copy(update={"fallback": str(error)})
        return self._judge(completion, by_rules, shown)

    def call(self, text: str, shown: Sequence[Item], split: Split) -> ModelCall:
        """Return what the model is asked; the message and the list stand cleaned inside fences."""
        understanding = self.rules.words.understanding
        kinds = [clean_title(kind) for kind in self.rules.retriever.kinds[:MOST_KINDS]]
        words = {**self.domain_words, "acts": ", ".join(get_args(Act)), "kinds": ", ".join(kinds)}
        parts = []
        if shown:
            lines = [f"{n}. {clean_title(item.title)}" for n, item in enumerate(shown, 1)]
            parts.append(fence(understanding.list, "list", lines))
        lines = clean_text(text, MAX_MESSAGE_LENGTH).splitlines()
        parts.append(fence(understanding.message, "message", lines))
        system = Message(role="system", content=understanding.system.format_map(words))
        return ModelCall(messages=(system, Message(role="user", content="\n".join(parts))), split=split)

    def _judge(self, completion: Completion, by_rules: Understood, shown: Sequence[Item]) -> Understood:
        """Take over what the model read, as far as the catalogue knows it."""
        answer = _parse(completion.text)
        if isinstance(answer, str):
            return by_rules.model_copy(update={"fallback": f"{completion.model}: {answer}"})
        items = {name: self._items(getattr(answer, name), shown) for name in ("like", "liked", "disliked", "seen")}
        years = (answer.from_year, answer.to_year)
        place = next((n for n, item in enumerate(shown, 1) if item.item_id in items["like"]), by_rules.place)
        read = Understood(
            act=answer.act,
            wanted=self._kinds(answer.wanted),
            avoided=self._kinds(answer.avoided),
            lessened=self._kinds(answer.lessened),
            years=years if any(years) else None,
            anchors=items["like"],
            liked=items["liked"],
            disliked=items["disliked"],
            seen=items["seen"],
            place=place if answer.act == "why" else None,
            missing_place=by_rules.missing_place,
            unknown=by_rules.unknown,
            text=by_rules.text,
            without=by_rules.without,
            source=completion.model,
            cut=by_rules.cut,
        )
        if read.act == "refine" and not shown:
            return read.model_copy(update={"act": "recommend"})
        return read

    def _kinds(self, names: Sequence[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(kind for name in names for kind in self.rules.kinds_named(name)))

    def _items(self, entries: Sequence[str | int], shown: Sequence[Item]) -> tuple[str, ...]:
        found: list[str] = []
        for entry in entries:
            number = int(entry) if isinstance(entry, int) or (entry.isdecimal() and len(entry) < 4) else 0
            if 1 <= number <= len(shown):
                found.append(shown[number - 1].item_id)
            elif isinstance(entry, str):
                words = [word for word, _, _ in tokens(entry)]
                found += [
                    m.item.item_id for m in self.rules.retriever.mentions(words) if m.stop - m.start == len(words)
                ]
        return tuple(dict.fromkeys(found))


def _parse(text: str) -> _Answer | str:
    """Read an answer, or say in one line what is wrong with it."""
    body = text.rpartition("</think>")[2]
    start, stop = body.find("{"), body.rfind("}")
    if start < 0 or stop < start:
        return "answered no JSON object"
    try:
        return _Answer.model_validate(json.loads(body[start : stop + 1]))
    except (ValueError, RecursionError) as error:
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            return f"answered JSON of another shape ({'.'.join(map(str, first['loc']))}: {first['msg']})"
        return "answered malformed JSON"
