"""What the chat recommender understands without a model, and what it says: `catalogue/chat.yaml`, read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, get_args

import yaml
from pydantic import BeforeValidator, ValidationError, model_validator

from promptailor.prompts.domain import Model
from promptailor.prompts.errors import CatalogueError
from promptailor.prompts.patterns import DOMAIN_WORDS, check_placeholders
from promptailor.prompts.titles import WORD, Words, fold, plain, words_of

MAX_MESSAGE_LENGTH = 2_000
"""Characters of a message that are read."""

Cue = Literal["want", "avoid", "less", "more", "like", "liked", "disliked", "seen"]
Act = Literal[
    "recommend", "refine", "more", "why", "describe", "help", "greeting", "thanks", "goodbye", "reset", "unclear"
]
"""What a visitor does with a message."""
SpokenAct = Literal["help", "greeting", "thanks", "goodbye", "reset", "why", "more", "describe", "recommend"]
"""Acts with phrases of their own; the others are known by what a message holds."""

Phrases = tuple[str, ...]

_PLACEHOLDERS: Mapping[str, tuple[str, ...]] = {
    "intro": ("wishes",),
    "refined": ("wishes",),
    "more": ("wishes",),
    "described": ("wishes",),
    "line": ("rank", "title", "year", "reason"),
    "wishes": ("list",),
    "wanted": ("kinds",),
    "avoided": ("kinds",),
    "lessened": ("kinds",),
    "years": ("first", "last"),
    "since": ("first",),
    "until": ("last",),
    "anchor": ("titles",),
    "year": ("year",),
    "few": ("count",),
    "only_one": ("title", "reason"),
    "unknown_title": ("title",),
    "left_out": ("titles",),
    "noted": ("titles",),
    "long_message": ("count",),
    "help": ("example",),
    "why": ("title", "rank", "reason", "model", "policy"),
    "no_place": ("count",),
}
"""What a reply may show, beside the domain's words."""
_REASON_PLACEHOLDERS: Mapping[str, tuple[str, ...]] = {
    "kinds": ("kinds",),
    "year": ("year",),
    "kinds_and_year": ("kinds", "year"),
    "anchor": ("titles",),
    "shared": ("kinds", "titles"),
    "history": ("titles",),
    "popular": ("rank",),
    "rare": ("count",),
}


def _text(value: object) -> object:
    """YAML reads some words as something else (`no`, `on`, 1980): they are words here."""
    return value if not isinstance(value, bool | int) else str(value)


Word = Annotated[str, BeforeValidator(_text)]


class Quality(Model):
    """Words that stand for several kinds at once."""

    words: Phrases
    kinds: Phrases


class YearWords(Model):
    """How a year is put in relation."""

    before: Phrases
    until: Phrases
    after: Phrases
    recent: Phrases
    classic: Phrases


class Replies(Model):
    """Sentences of replies."""

    intro: str
    refined: str
    more: str
    described: str
    line: str
    wishes: str
    wanted: str
    avoided: str
    lessened: str
    years: str
    since: str
    until: str
    anchor: str
    year: str
    all_kept: str
    few: str
    none_left: str
    only_one: str
    unknown_title: str
    nothing_understood: str
    left_out: str
    noted: str
    long_message: str
    help: str
    greeting: str
    thanks: str
    goodbye: str
    reset: str
    why: str
    why_nothing: str
    no_place: str


class Reasons(Model):
    """Parts of the reason of one item."""

    join: str
    either: str
    both: str
    kinds: str
    year: str
    kinds_and_year: str
    anchor: str
    shared: str
    history: str
    text: str
    popular: str
    rare: str
    unseen: str


class Understanding(Model):
    """What a chat model is asked about a message."""

    system: str
    list: str
    message: str


class ChatWords(Model):
    """Everything in `catalogue/chat.yaml`."""

    schema_version: Literal[1]
    cues: dict[Cue, Phrases]
    acts: dict[SpokenAct, Phrases]
    fillers: Phrases
    refinements: Phrases
    breaks: Phrases
    conjunctions: Phrases
    places: dict[Word, int]
    numbers: Phrases
    counts: dict[Word, int]
    pronouns: Phrases
    all_places: Phrases
    decades: dict[str, int]
    years: YearWords
    kinds: dict[str, Phrases]
    qualities: dict[str, Quality]
    replies: Replies
    reasons: Reasons
    understanding: Understanding

    @model_validator(mode="after")
    def _check(self) -> ChatWords:
        if missing := sorted({*get_args(Cue)} - {*self.cues}):
            raise ValueError(f"cues: no phrases for {', '.join(missing)}")
        if missing := sorted({*get_args(SpokenAct)} - {*self.acts}):
            raise ValueError(f"acts: no phrases for {', '.join(missing)}")
        for section, texts, allowed in (
            ("replies", self.replies, _PLACEHOLDERS),
            ("reasons", self.reasons, _REASON_PLACEHOLDERS),
        ):
            for name, text in texts.model_dump().items():
                check_placeholders(f"{section}.{name}", text, (*allowed.get(name, ()), *DOMAIN_WORDS))
        check_placeholders("understanding.system", self.understanding.system, ("acts", "kinds", *DOMAIN_WORDS))
        return self

    @cached_property
    def cue_phrases(self) -> Mapping[Words, Cue]:
        """Cues by their words."""
        return {words_of(fold(phrase)): cue for cue, phrases in self.cues.items() for phrase in phrases}

    @cached_property
    def act_phrases(self) -> Mapping[Words, SpokenAct]:
        """Acts by their words."""
        return {words_of(fold(phrase)): act for act, phrases in self.acts.items() for phrase in phrases}

    @cached_property
    def place_phrases(self) -> Mapping[Words, int]:
        """Places of a list by their words."""
        return {words_of(fold(phrase)): place for phrase, place in self.places.items()}

    @cached_property
    def counts_by_words(self) -> Mapping[Words, int]:
        """Numbers behind a place by their words."""
        return {words_of(fold(phrase)): count for phrase, count in self.counts.items()}

    def phrases(self, phrases: Phrases) -> frozenset[Words]:
        """Return phrases as words."""
        return frozenset(words_of(fold(phrase)) for phrase in phrases)

    def kind_phrases(self, kinds: tuple[str, ...]) -> Mapping[Words, tuple[str, ...]]:
        """Return the phrases that name some of a data set's kinds, and which they name."""
        known = {fold(kind): kind for kind in kinds}
        named = {known[fold(name)]: phrases for name, phrases in self.kinds.items() if fold(name) in known}
        found: dict[Words, tuple[str, ...]] = {}
        for quality in self.qualities.values():
            if meant := tuple(known[fold(kind)] for kind in quality.kinds if fold(kind) in known):
                found |= {words_of(fold(phrase)): meant for phrase in quality.words}
        for kind in kinds:
            name = words_of(fold(kind))
            forms = [name, *(words_of(fold(phrase)) for phrase in named.get(kind, ()))]
            if name:
                forms.append((*name[:-1], f"{name[-1]}s"))
            found |= {form: (kind,) for form in forms if form}
        return found


def tokens(text: str) -> list[tuple[str, int, int]]:
    """Return a cleaned text's words as they are compared, with where each starts and ends."""
    return [(plain(fold(match[0])), match.start(), match.end()) for match in WORD.finditer(text)]


def load_chat_words(path: Path | None = None) -> ChatWords:
    """Load and check the words of the chat.

    Args:
        path: a YAML file of the shape of `catalogue/chat.yaml`, which may leave out sections that it does not change;
            None loads the built-in one.

    Raises:
        CatalogueError: the file cannot be read, is not YAML, or a check failed; the message names file and field.
    """
    raw = yaml.safe_load(resources.files("promptailor.prompts.catalogue").joinpath("chat.yaml").read_text("utf-8"))
    if path is not None:
        try:
            own = yaml.safe_load(path.read_text("utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise CatalogueError(f"chat file {path}: {' '.join(str(error).split())}") from None
        if not isinstance(own, dict):
            raise CatalogueError(f"chat file {path}: expected a mapping of sections, found {type(own).__name__}")
        raw |= own
    try:
        return ChatWords.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise CatalogueError(f"{path or 'built-in chat words'}: {where + ': ' if where else ''}{message}") from None
