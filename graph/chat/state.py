"""The chat graph's state and its faces; what stays between turns is plain JSON, so that threads outlive versions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from langchain_core.messages import AnyMessage
from langgraph.graph.message import add_messages
from pydantic import BaseModel, ConfigDict, Field

from promptailor.graph.chat.retriever import Years
from promptailor.graph.state import RankOutput
from promptailor.prompts.chat import Act
from promptailor.prompts.domain import MAX_TASTE_LENGTH, Model

Messages = Annotated[list[AnyMessage], add_messages]


class Understood(Model):
    """What one message says, whoever read it; items by id, kinds by the catalogue's names."""

    act: Act = "unclear"
    wanted: tuple[str, ...] = ()
    avoided: tuple[str, ...] = ()
    lessened: tuple[str, ...] = ()
    years: Years | None = None
    anchors: tuple[str, ...] = ()
    """Items that candidates shall resemble."""
    liked: tuple[str, ...] = ()
    disliked: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()
    place: int | None = None
    """The place of the last list that "why" asks about."""
    missing_place: bool = False
    """Whether it names a place that the last list does not have."""
    unknown: tuple[str, ...] = ()
    """What stood where a title was expected, and is none."""
    text: str = ""
    """What else it says: words that may stand in titles."""
    without: tuple[str, ...] = ()
    """Words that no title shall have."""
    source: str = "rules"
    """Who read it: the rules, or a model's spec."""
    fallback: str | None = None
    """Why the rules read it although a model should have."""
    cut: bool = False
    """Whether the message was longer than what is read."""

    @property
    def says_something(self) -> bool:
        """Whether there is anything in it to look for items by."""
        wishes = (self.wanted, self.avoided, self.lessened, self.anchors, self.liked, self.disliked, self.seen)
        return any((*wishes, self.without)) or self.years is not None


class Wishes(Model):
    """What the visitor has asked for in this thread so far."""

    wanted: tuple[str, ...] = ()
    avoided: tuple[str, ...] = ()
    lessened: tuple[str, ...] = ()
    years: Years | None = None
    anchors: tuple[str, ...] = ()
    text: str = ""
    without: tuple[str, ...] = ()
    liked: tuple[str, ...] = ()
    disliked: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()
    """Items of earlier lists of the same search, which "more" does not repeat."""


class Visitor(BaseModel):
    """Who writes."""

    user_id: str | None = Field(
        None,
        max_length=200,
        description="A user of the data set, whose history then counts; empty for a visitor nobody knows.",
    )
    taste: str | None = Field(
        None,
        max_length=MAX_TASTE_LENGTH,
        description="What the visitor says of herself; titles in it count as her history.",
    )


class ChatInput(Visitor):
    """One turn of a conversation."""

    model_config = ConfigDict(title="Message", extra="forbid")

    messages: Messages = Field(description="What the visitor writes; the thread keeps what was said before.")


class ChatOutput(BaseModel):
    """The conversation, and the last ranked list with its reasons."""

    model_config = ConfigDict(title="Answer")

    messages: Messages = Field(description="The conversation; the last message is the reply.")
    ranking: RankOutput | None = Field(None, description="The last ranked list, a reason with every item.")
    understood: Understood = Field(description="What was read in the last message.")
    wishes: Wishes = Field(description="What the conversation has asked for so far.")


@dataclass(kw_only=True)
class ChatState:
    """The state between nodes and between turns."""

    messages: Messages = field(default_factory=list)
    user_id: str | None = None
    taste: str | None = None
    understood: dict[str, Any] = field(default_factory=dict)
    """An `Understood` as JSON."""
    wishes: dict[str, Any] = field(default_factory=dict)
    """A `Wishes` as JSON."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """The `Item`s that the last list was made from, as JSON, oldest first."""
    candidates: list[dict[str, Any]] = field(default_factory=list)
    """The `Facts` of this turn's candidates, as JSON; empty where nothing is to be ranked."""
    ranking: dict[str, Any] | None = None
    """A `RankOutput` as JSON: the last ranked list, of this turn or of an earlier one."""
