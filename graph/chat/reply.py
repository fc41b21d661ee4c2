"""What the chat recommender says: prose from `chat.yaml`, and for every item a reason that follows from known facts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from promptailor.graph.chat.retriever import Facts, is_within
from promptailor.graph.chat.state import Understood, Wishes
from promptailor.graph.state import RankOutput
from promptailor.prompts.assemble import clean_title
from promptailor.prompts.chat import MAX_MESSAGE_LENGTH, ChatWords

Titles = Callable[[Sequence[str]], Sequence[str]]
"""From item ids to titles."""

TOLD = 5
"""Places of the ranking that the prose names; the whole ranking is in the state."""
MOST_TITLES = 2
"""That one reason names."""
POPULAR = 50
"""Last place by popularity that is worth telling."""


@dataclass(frozen=True)
class ChatReplies:
    """Sentences with one domain's words filled in."""

    words: ChatWords
    domain_words: Mapping[str, str]

    def reason(self, facts: Facts, wishes: Wishes) -> str:
        """Say why an item is among the candidates: what was asked for first, then whom it goes with, then how known."""
        texts = self.words.reasons
        parts: list[str] = []
        asked_year = wishes.years is not None and facts.year is not None and is_within(facts.year, wishes.years)
        if facts.wanted and asked_year:
            parts.append(self._fill(texts.kinds_and_year, kinds=texts.both.join(facts.wanted), year=facts.year))
        elif facts.wanted:
            parts.append(self._fill(texts.kinds, kinds=texts.both.join(facts.wanted)))
        elif asked_year:
            parts.append(self._fill(texts.year, year=facts.year))
        if facts.like_anchors:
            parts.append(self._fill(texts.anchor, titles=self._titles(facts.like_anchors, texts.either)))
        elif facts.shared:
            titles = self._titles(facts.shared_with, texts.both)
            parts.append(self._fill(texts.shared, kinds=texts.both.join(facts.shared), titles=titles))
        elif facts.like_history:
            parts.append(self._fill(texts.history, titles=self._titles(facts.like_history, texts.either)))
        if facts.in_text:
            parts.append(self._fill(texts.text))
        if facts.popularity <= POPULAR and facts.n_users:
            parts.append(self._fill(texts.popular, rank=facts.popularity))
        if not parts:
            parts.append(self._fill(texts.rare, count=facts.n_users) if facts.n_users else self._fill(texts.unseen))
        return texts.join.join(parts)

    def listing(
        self, ranking: RankOutput, facts: Sequence[Facts], understood: Understood, wishes: Wishes, titles: Titles
    ) -> str:
        """Say the best of a ranking, one line per item, and what should be known about it."""
        replies = self.words.replies
        opening = {"more": replies.more, "refine": replies.refined, "describe": replies.described}
        lines = [self._fill(opening.get(understood.act, replies.intro), wishes=self.wishes(wishes, titles))]
        years = {fact.item.item_id: fact.year for fact in facts}
        for item in ranking.items[:TOLD]:
            year = years.get(item.item_id)
            lines.append(
                self._fill(
                    replies.line,
                    rank=item.rank,
                    title=clean_title(item.title),
                    year=self._fill(replies.year, year=year) if year else "",
                    reason=item.reason or "",
                )
            )
        lines += self.notes(understood, titles, in_text=any(fact.in_text for fact in facts))
        fitting = sum(fact.fits for fact in facts)
        if fitting < min(TOLD, len(facts)):
            lines.append(self._fill(replies.few, count=fitting))
        lines.append(self._fill(replies.all_kept))
        return "\n".join(lines)

    def notes(self, understood: Understood, titles: Titles, *, in_text: bool = False) -> list[str]:
        """Say what was left out, noted, cut or not known; `in_text` where titles had words of the message."""
        replies = self.words.replies
        notes: list[str] = []
        if understood.cut:
            notes.append(self._fill(replies.long_message, count=f"{MAX_MESSAGE_LENGTH:,}"))
        notes += [self._fill(replies.unknown_title, title=clean_title(title)) for title in understood.unknown]
        if understood.disliked:
            notes.append(self._fill(replies.left_out, titles=", ".join(map(clean_title, titles(understood.disliked)))))
        if known := (*understood.liked, *understood.seen):
            notes.append(self._fill(replies.noted, titles=", ".join(map(clean_title, titles(known)))))
        if understood.act == "unclear" and not in_text:
            notes.append(self._fill(replies.nothing_understood))
        return notes

    def wishes(self, wishes: Wishes, titles: Titles) -> str:
        """Say in brackets what a list was made for; nothing where nothing was asked for."""
        replies = self.words.replies
        parts: list[str] = []
        if wishes.wanted:
            parts.append(self._fill(replies.wanted, kinds=", ".join(wishes.wanted)))
        if wishes.anchors:
            parts.append(self._fill(replies.anchor, titles=self._titles(titles(wishes.anchors))))
        if wishes.years is not None:
            first, last = wishes.years
            text = replies.until if first is None else replies.since if last is None else replies.years
            parts.append(self._fill(text, first=first, last=last))
        if wishes.lessened:
            parts.append(self._fill(replies.lessened, kinds=", ".join(wishes.lessened)))
        if unwanted := (*wishes.avoided, *map(clean_title, wishes.without)):
            parts.append(self._fill(replies.avoided, kinds=", ".join(unwanted)))
        return self._fill(replies.wishes, list=", ".join(parts)) if parts else ""

    def why(self, ranking: RankOutput | None, place: int | None) -> str:
        """Say why an item of the last list stands where it does."""
        replies = self.words.replies
        if ranking is None:
            return self._fill(replies.why_nothing)
        item = ranking.items[min(place or 1, len(ranking.items)) - 1]
        return self._fill(
            replies.why,
            title=clean_title(item.title),
            rank=item.rank,
            reason=item.reason or "",
            model=ranking.model,
            policy=ranking.policy,
        )

    def say(self, name: str, **values: object) -> str:
        """Return one of the sentences that stand alone."""
        return self._fill(getattr(self.words.replies, name), **values)

    def _titles(self, titles: Sequence[str], conjunction: str = ", ") -> str:
        return conjunction.join(clean_title(title) for title in titles[:MOST_TITLES])

    def _fill(self, text: str, **values: object) -> str:
        return text.format_map({**self.domain_words, **values})
