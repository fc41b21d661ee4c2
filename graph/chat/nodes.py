"""The chat graph's nodes: understand -> retrieve -> rank (the rank graph) -> reply."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, RemoveMessage
from pydantic import ValidationError

from promptailor.graph.chat.model import ChatReader
from promptailor.graph.chat.reply import ChatReplies
from promptailor.graph.chat.retriever import Facts, Query, Retriever
from promptailor.graph.chat.state import ChatState, Understood, Visitor, Wishes
from promptailor.graph.context import Context
from promptailor.graph.inline import Update
from promptailor.graph.state import RankInput, RankOutput
from promptailor.prompts.assemble import clean_text, clean_title
from promptailor.prompts.chat import MAX_MESSAGE_LENGTH, ChatWords
from promptailor.prompts.domain import Item, UserProfile
from promptailor.prompts.errors import InputError
from promptailor.prompts.patterns import Catalogue

VISITOR = "visitor"
"""User id of a visitor whom nobody knows; it keys draws only."""
MOST_REMEMBERED = 200
"""Items of each sort that a thread remembers, the latest."""
MOST_MESSAGES = 200
"""That a thread keeps, the latest: a visitor who never stops costs no more memory than one who does."""
_TALK = ("help", "greeting", "thanks", "goodbye", "reset", "why")
"""Acts that need no new ranking."""


@dataclass(frozen=True)
class ChatNodes:
    """Nodes over one catalogue."""

    retriever: Retriever
    catalogue: Catalogue
    words: ChatWords
    reader: ChatReader
    n_candidates: int

    def understand(self, state: ChatState, context: Context) -> Update:
        """Read the last message, and bring what the thread wishes up to date."""
        text, message = self._last_message(state)
        return self._understood(state, message, text, self.reader.read(text, self._shown(state), context.split))

    async def aunderstand(self, state: ChatState, context: Context) -> Update:
        """Do what `understand` does without holding up the event loop."""
        text, message = self._last_message(state)
        read = await self.reader.aread(text, self._shown(state), context.split)
        return self._understood(state, message, text, read)

    def retrieve(self, state: ChatState, context: Context) -> Update:
        """Find candidates for what the thread wishes; never among what is held out, or known to the visitor."""
        wishes, understood = Wishes.model_validate(state.wishes), Understood.model_validate(state.understood)
        history = self._history(state, wishes)
        last = [item.item_id for item in _ranking(state).items] if state.ranking else []
        if understood.act == "more":
            wishes = wishes.model_copy(update={"shown": _latest((*wishes.shown, *last))})
        found = self.retriever.retrieve(
            Query(
                history=history,
                anchors=self._items(wishes.anchors),
                wanted=wishes.wanted,
                avoided=wishes.avoided,
                lessened=wishes.lessened,
                years=wishes.years,
                excluded=frozenset((*wishes.disliked, *wishes.seen, *wishes.shown)),
                text=wishes.text,
                without=wishes.without,
                n=self.n_candidates,
            )
        )
        return {
            "history": [item.model_dump(mode="json") for item in history],
            "candidates": [facts.model_dump(mode="json") for facts in found],
            "wishes": wishes.model_dump(mode="json"),
        }

    def request(self, state: ChatState) -> RankInput:
        """Return what the rank graph is asked."""
        return RankInput(
            user_id=state.user_id or VISITOR,
            history=[Item.model_validate(item) for item in state.history],
            candidates=[Facts.model_validate(facts).item for facts in state.candidates],
            domain=self.retriever.domain,
            user_profile=UserProfile(taste=state.taste) if state.taste else None,
        )

    def reply(self, state: ChatState, context: Context) -> Update:
        """Answer in words; the ranking in the state gets the same reasons."""
        understood, wishes = Understood.model_validate(state.understood), Wishes.model_validate(state.wishes)
        say = self.replies.say
        if understood.act == "why":
            shown = _ranking(state) if state.ranking else None
            if shown and understood.missing_place:
                return {"messages": [AIMessage(say("no_place", count=len(shown.items)))]}
            return {"messages": [AIMessage(self.replies.why(shown, understood.place))]}
        if understood.act == "help":
            example = next((item.title for item in self.retriever.popular(1)), "")
            return {"messages": [AIMessage(say("help", example=example))]}
        if understood.act in _TALK:
            return {"messages": [AIMessage(say(understood.act))]}
        facts = [Facts.model_validate(facts) for facts in state.candidates]
        if len(facts) < 2:
            left = [
                say("only_one", title=clean_title(f.item.title), reason=self.replies.reason(f, wishes)) for f in facts
            ]
            lines = [*(left or [say("none_left")]), *self.replies.notes(understood, self._titles)]
            return {"messages": [AIMessage("\n".join(lines))], "ranking": None}
        by_id = {fact.item.item_id: fact for fact in facts}
        ranking = _ranking(state)
        reasons = [self.replies.reason(by_id[item.item_id], wishes) for item in ranking.items]
        items = [
            item.model_copy(update={"reason": reason}) for item, reason in zip(ranking.items, reasons, strict=True)
        ]
        ranking = ranking.model_copy(update={"items": items})
        text = self.replies.listing(ranking, facts, understood, wishes, self._titles)
        return {
            "messages": [AIMessage(text)],
            "ranking": ranking.model_dump(mode="json"),
        }

    def after_understand(self, state: ChatState) -> Literal["retrieve", "reply"]:
        """Skip the search for small talk and explanations."""
        return "reply" if state.understood["act"] in _TALK else "retrieve"

    def after_retrieve(self, state: ChatState) -> Literal["rank", "reply"]:
        """Skip the model where there is nothing to put in order."""
        return "rank" if len(state.candidates) > 1 else "reply"

    @cached_property
    def replies(self) -> ChatReplies:
        """Sentences in the domain's words."""
        return ChatReplies(self.words, self.catalogue.words(self.retriever.domain))

    def _last_message(self, state: ChatState) -> tuple[str, BaseMessage]:
        """Return the message to answer, as text and as it is.

        Raises:
            InputError: there is none, or the user's id or taste is too long or no text.
        """
        try:
            Visitor(user_id=state.user_id, taste=state.taste)
        except ValidationError as error:
            first = error.errors()[0]
            raise InputError(f"{first['loc'][0]}: {first['msg']}") from None
        if not state.messages:
            raise InputError("messages: there is none; send what the visitor writes")
        last = state.messages[-1]
        return (last.text if isinstance(last, HumanMessage) else ""), last

    def _understood(self, state: ChatState, message: BaseMessage, text: str, read: Understood) -> Update:
        wishes = Wishes.model_validate(state.wishes)
        # What is kept is what was read: the same id replaces the message.
        forgotten = [RemoveMessage(id=str(old.id)) for old in state.messages[:-MOST_MESSAGES]]
        kept = HumanMessage(clean_text(text, MAX_MESSAGE_LENGTH), id=message.id)
        return {
            "understood": read.model_dump(mode="json"),
            "wishes": updated(wishes, read).model_dump(mode="json"),
            "taste": clean_text(text) if read.act == "describe" else clean_text(state.taste or "") or None,
            "candidates": [],
            "messages": [*forgotten, *([kept] if isinstance(message, HumanMessage) else [])],
        }

    def _history(self, state: ChatState, wishes: Wishes) -> tuple[Item, ...]:
        """Return what the visitor chose: as a known user, by her taste, and by what she said to have liked."""
        known = self.retriever.history(state.user_id) if state.user_id else None
        described = self.reader.rules.read(state.taste) if state.taste else Understood()
        said = self._items((*described.anchors, *described.liked, *wishes.liked))
        dropped = {*wishes.disliked}
        history = {item.item_id: item for item in (*(known or ()), *said) if item.item_id not in dropped}
        return tuple(history.values())

    def _items(self, item_ids: Sequence[str]) -> tuple[Item, ...]:
        return tuple(item for item in map(self.retriever.item, dict.fromkeys(item_ids)) if item)

    def _titles(self, item_ids: Sequence[str]) -> list[str]:
        return [item.title for item in self._items(item_ids)]

    def _shown(self, state: ChatState) -> list[Item]:
        return [Item(item_id=i.item_id, title=i.title) for i in _ranking(state).items] if state.ranking else []


def updated(wishes: Wishes, read: Understood) -> Wishes:
    """Return what a thread wishes after a message: a new wish replaces the last one, a refinement adds to it.

    What the visitor does not want, likes, dislikes and knows stays until "start over".
    """
    if read.act == "reset":
        return Wishes()
    wanted, anchors, years, text = wishes.wanted, wishes.anchors, wishes.years, wishes.text
    lessened = wishes.lessened
    if read.act == "refine":
        wanted, anchors = (*wanted, *read.wanted), read.anchors or anchors
        years, text = read.years or years, read.text or text
    elif read.act in ("recommend", "describe", "unclear"):
        wanted, anchors, years, text, lessened = read.wanted, read.anchors, read.years, read.text, ()
    elif read.act == "more":
        anchors = read.anchors or anchors
    against = {*read.avoided, *read.lessened}
    return Wishes(
        wanted=tuple(kind for kind in dict.fromkeys(wanted) if kind not in against),
        avoided=tuple(k for k in dict.fromkeys((*wishes.avoided, *read.avoided)) if k not in read.wanted),
        lessened=tuple(k for k in dict.fromkeys((*lessened, *read.lessened)) if k not in read.wanted),
        years=years,
        anchors=anchors,
        text=text,
        without=_latest((*wishes.without, *read.without)),
        liked=_latest((*wishes.liked, *read.liked)),
        disliked=_latest(i for i in (*wishes.disliked, *read.disliked) if i not in read.liked),
        seen=_latest((*wishes.seen, *read.seen, *read.liked)),
        shown=wishes.shown if read.act in ("more", "refine") else (),
    )


def _latest(item_ids: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(item_ids))[-MOST_REMEMBERED:]


def _ranking(state: ChatState) -> RankOutput:
    return RankOutput.model_validate(state.ranking)
