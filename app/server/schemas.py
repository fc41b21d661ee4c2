"""What the API accepts and returns, beside the graph's own `RankInput` and `RankOutput`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from promptailor.app.server.feedback_store import Vote
from promptailor.graph.state import RankInput
from promptailor.prompts.domain import MAX_TASTE_LENGTH, Item, ItemId, UserProfile

MAX_CANDIDATES = 200
MAX_HISTORY = 1_000
MAX_MESSAGE = 2_000
MAX_ID = 200
_NO_NULL = r"^[^\x00]*$"

UserId = Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID)]

_EXAMPLE_REQUEST: dict[str, Any] = {
    "user_id": "u1",
    "domain": "movies",
    "history": [{"item_id": "1", "title": "Alien"}, {"item_id": "2", "title": "Blade Runner"}],
    "candidates": [{"item_id": "3", "title": "Aliens"}, {"item_id": "4", "title": "Heidi"}],
}


class Problem(BaseModel):
    """What went wrong, in one line."""

    detail: str = Field(description="What is wrong and what to do about it.")
    field: str | None = Field(None, description="The field of the request that is wrong, where it is one.")
    request_id: str | None = Field(None, description="The id under which the server's log knows the request.")


class RankBody(RankInput):
    """A request to rank: who asks, what they chose before, what can be recommended."""

    model_config = ConfigDict(title="RankInput", extra="forbid", json_schema_extra={"examples": [_EXAMPLE_REQUEST]})

    user_id: UserId | Annotated[int, Field(ge=-(2**63), lt=2**63)] = Field(description="Whoever the answer is for.")
    history: list[Item | ItemId] = Field(
        max_length=MAX_HISTORY, description="Oldest first; items, or bare ids where a catalogue is loaded."
    )
    candidates: list[Item | ItemId] = Field(
        min_length=2,
        max_length=MAX_CANDIDATES,
        description="Items, or bare ids where a catalogue is loaded; each once.",
    )
    domain: str | None = Field(None, max_length=64, description="Word list of the prompt: movies, music, games, ...")
    user_profile: UserProfile | None = Field(None, description="What is known of the user; every field is optional.")


class ChatBody(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"user_id": "visitor-1", "message": "A funny science-fiction movie, not too violent"}]
        },
    )

    user_id: UserId = Field(description="A user of the data set, or any id that a visitor keeps.")
    message: str = Field(min_length=1, max_length=MAX_MESSAGE, description="What the user says.")
    taste: str | None = Field(
        None, max_length=MAX_TASTE_LENGTH, description="How the user describes herself; titles count as her history."
    )
    conversation: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{32}$",
        description="Id of the conversation to go on with, from the stream's first event; empty starts a new one.",
    )


class ExplainBody(BaseModel):
    """An answer to explain."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"request": _EXAMPLE_REQUEST}]})

    answer_id: str | None = Field(None, pattern=r"^[0-9a-f]{32}$", description="A recent answer of this server.")
    request: RankBody | None = Field(None, description="Or a request, which is then served as `/api/rank` would.")

    @model_validator(mode="after")
    def _one(self) -> ExplainBody:
        if (self.answer_id is None) == (self.request is None):
            raise ValueError("give either answer_id or request")
        return self


class FeedbackBody(BaseModel):
    """A vote on one item of an answer."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"answer_id": "0" * 32, "item_id": "3", "vote": "up"}]}
    )

    answer_id: str = Field(
        pattern=r"^[0-9a-f]{32}$", description="From the header `X-Answer-Id`, or the stream's `ranking` event."
    )
    item_id: str = Field(min_length=1, max_length=512, pattern=_NO_NULL, description="The item that is liked or not.")
    vote: Vote | None = Field(description="The last vote counts; null takes it back.")


class Forgotten(BaseModel):
    """What was deleted."""

    answers: int = Field(description="Answers deleted, with the votes on them.")
    conversations: int = Field(description="Conversations deleted, with their checkpoints.")


class Health(BaseModel):
    """Whether the server can answer."""

    status: Literal["ok"] = "ok"
    model: str = Field(description="The recommender's spec.")
    policy: str = Field(description="The policy that writes the prompts.")


class ExampleUser(BaseModel):
    """A user of the data set that a visitor can try the page as."""

    user_id: str
    name: str = Field(description="What is known of the user, in words.")
    recent: list[str] = Field(description="Titles of the most recent choices, the last first.")
    n_history: int = Field(description="How many choices are known.")


class Start(BaseModel):
    """What the page needs to begin."""

    users: list[ExampleUser] = Field(description="Example users; empty where no data set is loaded.")
    domain: str = Field(description="Word list of the prompts, such as movies.")
    policy: str = Field(description="The policy that writes the prompts.")
    chat: bool = Field(description="Whether there is a catalogue to chat about.")
