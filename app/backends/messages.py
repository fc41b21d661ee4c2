"""Messages of the graph become LangChain's, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage

from promptailor.prompts.errors import InputError
from promptailor.prompts.llm import Message, Role

_CLASSES: Mapping[Role, type[BaseMessage]] = {"system": SystemMessage, "user": HumanMessage, "assistant": AIMessage}
_ROLES: Mapping[str, Role] = {"system": "system", "human": "user", "ai": "assistant"}


def chat_messages(messages: Sequence[Message]) -> list[BaseMessage]:
    """Return messages as LangChain's."""
    return [_CLASSES[message.role](content=message.content) for message in messages]


def plain_messages(messages: Sequence[BaseMessage]) -> list[Message]:
    """Return LangChain's messages as the graph's; one of a tool, or of another kind, is an `InputError`."""
    if other := next((message.type for message in messages if message.type not in _ROLES), None):
        raise InputError(f"messages: the model reads {', '.join(_ROLES)} messages, not {other!r}")
    return [Message(role=_ROLES[message.type], content=message.text) for message in messages]
