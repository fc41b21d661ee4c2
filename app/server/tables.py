"""The tables of the feedback store; `migrations/` creates them, and a test holds the two together."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, ForeignKey, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


def _now() -> datetime:
    return datetime.now(UTC)


class Base(DeclarativeBase):
    """Base of the tables."""


class AnswerRow(Base):
    """One answer as it was shown, with everything that learning from its feedback needs."""

    __tablename__ = "answers"

    answer_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    user: Mapped[str] = mapped_column(String(64), index=True)
    """Pseudonym."""
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=_now)
    policy: Mapped[str] = mapped_column(String(64))
    version: Mapped[str] = mapped_column(String(64))
    model: Mapped[str] = mapped_column(String(512))
    catalogue_digest: Mapped[str] = mapped_column(String(64))
    """Of the sentences that `spec` counts in."""
    explored: Mapped[bool]
    """Whether the sentences were drawn, so that their probabilities are propensities."""
    prompt_digest: Mapped[str] = mapped_column(String(64))
    spec: Mapped[dict[str, Any]] = mapped_column(JSON)
    """The last prompt in numbers, a `PromptSpec`."""
    steps: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    """Per step and pattern the sentence and its probability."""
    history: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    """What the user had chosen before, oldest first: items."""
    profile: Mapped[list[str]] = mapped_column(JSON)
    """Names of the known fields of the user's profile, not their values."""
    ranking: Mapped[list[str]] = mapped_column(JSON)
    """Ids of the shown items, best first."""
    votes: Mapped[list[FeedbackRow]] = relationship(back_populates="answer", passive_deletes=True, lazy="raise")


class FeedbackRow(Base):
    """One vote on an item of an answer; the last one counts."""

    __tablename__ = "feedback"

    answer_id: Mapped[str] = mapped_column(ForeignKey("answers.answer_id", ondelete="CASCADE"), primary_key=True)
    item_id: Mapped[str] = mapped_column(String(512), primary_key=True)
    vote: Mapped[int]
    """1 or -1."""
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=_now)
    answer: Mapped[AnswerRow] = relationship(back_populates="votes", lazy="raise")


class ConversationRow(Base):
    """Whose thread a checkpoint belongs to, so that a user's conversations can be deleted."""

    __tablename__ = "conversations"

    thread_id: Mapped[str] = mapped_column(String(128), primary_key=True)
    user: Mapped[str] = mapped_column(String(64), index=True)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=_now)
