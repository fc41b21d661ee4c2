"""What evaluation works on."""

from __future__ import annotations

from dataclasses import dataclass

from promptailor.prompts.domain import RankRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalCase:
    """One user to rank for, and the answer, which no prompt and no policy may see."""

    request: RankRequest
    """`request.candidates` is the canonical order; its slots are balanced over the users of a batch, except where a
    retriever chose the candidates and the order is its own."""
    relevant_item_id: str
    slot: int | None
    """0-based place of the relevant item in `request.candidates`; None where a retriever missed it."""

    @property
    def user_id(self) -> str:
        """The user the case belongs to."""
        return self.request.user_id
