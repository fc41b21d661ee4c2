"""The pattern catalogue: which sentences a prompt can be made of, and which words a domain fills in.

Loaded from `catalogue/patterns.yaml` and `catalogue/domains.yaml`, or from a user's own files, and checked on
load: unknown placeholders, duplicate ids and missing words are a `CatalogueError` that names the sentence.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from importlib import resources
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import Field, ValidationError, model_validator

from promptailor.prompts.domain import Model, UserProfile
from promptailor.prompts.errors import CatalogueError

PatternName = Literal["role_playing", "history_records", "reasoning_guidance", "output_format", "user_profile"]
SentencePattern = Literal["role_playing", "reasoning_guidance", "output_format"]
Task = Literal["ranking", "rating"]
"""What a model is asked: to rank candidates, or to say how a user will rate an item."""

PATTERNS: tuple[PatternName, ...] = get_args(PatternName)[:4]
"""The paper's four patterns, in the order their agents are drawn; `user_profile` is the optional fifth."""
SENTENCE_PATTERNS: tuple[SentencePattern, ...] = get_args(SentencePattern)

DOMAIN_WORDS = ("item", "items", "interact", "interacted", "interest", "field")


class Sentence(Model):
    """One action of a pattern."""

    id: str
    text: str
    subcategory: str | None = None
    strategy: str | None = None
    separator: str | None = None
    """Between the entries of a well-formed answer; only output formats have one."""
    titles: bool = False
    """Whether a well-formed answer repeats the titles behind the numbers."""


class Pattern(Model):
    """A pattern whose actions are sentences."""

    sentences: tuple[Sentence, ...] = Field(min_length=1)


class HistoryPattern(Model):
    """The pattern whose action is how many more interactions to show."""

    initial_length: int = Field(ge=0)
    increments: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    max_length: int = Field(ge=1)
    text: str

    def next_length(self, length: int, action: int, available: int) -> int:
        """Return l_t = min(l_{t-1} + a_t, |H|, L_max) (RPP, section 3.2); `available` is |H|."""
        return min(length + self.increments[action], available, self.max_length)


class CandidateSection(Model):
    """The sentence above the candidates; it is no pattern and never varies."""

    text: str


class ProfilePattern(Model):
    """The optional fifth pattern: each field of the user's profile is shown or not."""

    fields: tuple[str, ...]
    text: str
    field_texts: dict[str, str]

    @cached_property
    def subsets(self) -> tuple[tuple[str, ...], ...]:
        """Every subset of the fields, the empty one first and all of them last: the pattern's actions.

        Subsets with `taste` follow those without: it came later, and an action must not change its meaning.
        """
        subsets = (s for size in range(len(self.fields) + 1) for s in combinations(self.fields, size))
        return tuple(sorted(subsets, key=lambda subset: "taste" in subset))

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """What the actions are called: `gender+age`, and `none` for the empty subset."""
        return tuple("+".join(subset) or "none" for subset in self.subsets)

    def bits(self, fields: Collection[str]) -> int:
        """Return a set of fields as a bit mask."""
        return sum(1 << place for place, field in enumerate(self.fields) if field in fields)


class ManualPrompt(Model):
    """The fixed prompt a person would write, by sentence id."""

    role_playing: str
    reasoning_guidance: str
    output_format: str
    history_length: int = Field(ge=0)


class RefineInstruction(Model):
    """What the refiner is asked (RPP+)."""

    text: str


class PromptSpec(Model):
    """A prompt in numbers: which sentence of each pattern, and how much history. None leaves a sentence out."""

    role_playing: int | None
    history_length: int = Field(ge=0)
    reasoning_guidance: int | None
    output_format: int | None
    user_profile: int = 0


class Edition(Model):
    """An earlier edition of a catalogue that sentences were added to since."""

    digest: str
    sentences: dict[SentencePattern, Annotated[int, Field(ge=1)]]
    """How many of each pattern's sentences it had: the first ones, in the same places."""


class Catalogue(Model):
    """All patterns, checked, with the domains' words."""

    schema_version: Literal[1]
    editions: tuple[str, ...] = ()
    """Digests of earlier editions all of whose actions mean the same in this one."""
    grown_from: tuple[Edition, ...] = ()
    """Editions that had fewer sentences; see `extended`."""
    role_playing: Pattern
    history_records: HistoryPattern
    candidates: CandidateSection
    reasoning_guidance: Pattern
    output_format: Pattern
    user_profile: ProfilePattern
    manual: ManualPrompt
    refine: RefineInstruction
    domains: dict[str, dict[str, str]]

    @model_validator(mode="after")
    def _check(self) -> Catalogue:
        for name, words in self.domains.items():
            if missing := sorted(set(DOMAIN_WORDS) - set(words)):
                raise ValueError(f"domain {name!r} lacks the word(s) {', '.join(missing)}")
            if extra := sorted(set(words) - set(DOMAIN_WORDS)):
                raise ValueError(f"domain {name!r} has unknown word(s) {', '.join(extra)}; known: {DOMAIN_WORDS}")
        for pattern in SENTENCE_PATTERNS:
            ids = [s.id for s in self.sentences(pattern)]
            if twice := {i for i in ids if ids.count(i) > 1}:
                raise ValueError(f"{pattern}: sentence id(s) {sorted(twice)} occur twice")
            for sentence in self.sentences(pattern):
                check_sentence(f"{pattern}.{sentence.id}", sentence.text)
            if lacking := [
                e.digest for e in self.grown_from if e.sentences.get(pattern, 0) not in range(1, len(ids) + 1)
            ]:
                raise ValueError(f"grown_from: edition {lacking[0]} needs 1 to {len(ids)} sentences of {pattern}")
            if getattr(self.manual, pattern) not in ids:
                raise ValueError(f"manual.{pattern}: no sentence {getattr(self.manual, pattern)!r}; there are {ids}")
        check_placeholders("history_records.text", self.history_records.text, DOMAIN_WORDS)
        check_placeholders("candidates.text", self.candidates.text, DOMAIN_WORDS)
        check_placeholders("user_profile.text", self.user_profile.text, DOMAIN_WORDS)
        check_placeholders("refine.text", self.refine.text, ("sentence",), required=("sentence",))
        for field in self.user_profile.fields:
            if field not in UserProfile.model_fields:
                raise ValueError(
                    f"user_profile.fields: {field!r} is unknown; known: {', '.join(UserProfile.model_fields)}"
                )
            text = self.user_profile.field_texts.get(field)
            if text is None:
                raise ValueError(f"user_profile.field_texts: no text for the field {field!r}")
            check_placeholders(f"user_profile.field_texts.{field}", text, ("value",), required=("value",))
        return self

    @cached_property
    def digest(self) -> str:
        """Hex digest of everything a prompt can say; stored with checkpoints and results."""
        text = self.model_dump_json(exclude={"editions", "grown_from"})
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def reads(self, digest: str) -> bool:
        """Whether actions chosen from the catalogue with this digest mean the same in this one."""
        return digest in (self.digest, *self.editions, *(edition.digest for edition in self.grown_from))

    def as_of(self, digest: str) -> Catalogue:
        """Return the catalogue as a policy knows it that was trained with an edition: without what was added since."""
        edition = next((edition for edition in self.grown_from if edition.digest == digest), None)
        if edition is None or digest == self.digest:
            return self
        content = self.model_dump()
        for pattern, count in edition.sentences.items():
            content[pattern]["sentences"] = content[pattern]["sentences"][:count]
        return Catalogue.model_validate(content | {"grown_from": ()})

    def extended(self, added: Mapping[SentencePattern, Iterable[Sentence]]) -> Catalogue:
        """Return the catalogue with sentences behind its own, which keep their places: its policies still serve.

        Raises:
            ValueError: an id stands there already, or a sentence has an unknown placeholder; the message names it.
        """
        sizes = {pattern: len(self.sentences(pattern)) for pattern in SENTENCE_PATTERNS}
        content = self.model_dump()
        content["grown_from"] = (
            *content["grown_from"],
            *({"digest": d, "sentences": sizes} for d in (self.digest, *self.editions)),
        )
        content["editions"] = ()
        for pattern, sentences in added.items():
            content[pattern]["sentences"] = (*content[pattern]["sentences"], *(s.model_dump() for s in sentences))
        return Catalogue.model_validate(content)

    def sentences(self, pattern: SentencePattern) -> tuple[Sentence, ...]:
        """Return a sentence pattern's actions in order."""
        chosen: Pattern = getattr(self, pattern)
        return chosen.sentences

    def n_actions(self, pattern: PatternName, sentences: int | None = None) -> int:
        """Return the size of a pattern's action space; `sentences` counts only so many of each sentence pattern."""
        if pattern == "history_records":
            return len(self.history_records.increments)
        if pattern == "user_profile":
            return len(self.user_profile.subsets)
        return len(self.sentences(pattern)[:sentences])

    def words(self, domain: str) -> Mapping[str, str]:
        """Return a domain's words; an unknown domain is a `CatalogueError` that lists the known ones."""
        try:
            return self.domains[domain]
        except KeyError:
            raise CatalogueError(f"domain {domain!r} is unknown; known: {', '.join(sorted(self.domains))}") from None

    def fill(self, sentence: Sentence, domain: str) -> str:
        """Return a sentence with the domain's words filled in."""
        return sentence.text.format_map(self.words(domain))

    @cached_property
    def manual_prompt(self) -> PromptSpec:
        """The manual prompt as a `PromptSpec`."""

        def index(pattern: SentencePattern) -> int:
            return [s.id for s in self.sentences(pattern)].index(getattr(self.manual, pattern))

        return PromptSpec(
            role_playing=index("role_playing"),
            history_length=self.manual.history_length,
            reasoning_guidance=index("reasoning_guidance"),
            output_format=index("output_format"),
        )

    @cached_property
    def manual_profile_prompt(self) -> PromptSpec:
        """The manual prompt with every known field of the user's profile."""
        return self.manual_prompt.model_copy(update={"user_profile": len(self.user_profile.subsets) - 1})


def check_sentence(where: str, text: str) -> None:
    """Raise ValueError, which names `where`, where a template has a placeholder that no domain fills in."""
    check_placeholders(where, text, DOMAIN_WORDS)


def check_placeholders(where: str, text: str, allowed: Iterable[str], required: Iterable[str] = ()) -> None:
    """Raise ValueError where a text's placeholders are unknown, malformed, or lack a required one."""
    try:
        parts = [part for part in string.Formatter().parse(text) if part[1] is not None]
    except ValueError as error:
        raise ValueError(f"{where}: {error}; write {{{{ for a brace") from None
    fields = [field for _, field, _, _ in parts]
    if unknown := [f for f in fields if f not in set(allowed)]:
        raise ValueError(f"{where}: unknown placeholder {{{unknown[0]}}}; allowed: {', '.join(sorted(allowed))}")
    if formatted := [field for _, field, spec, conversion in parts if spec or conversion]:
        raise ValueError(f"{where}: the placeholder {{{formatted[0]}}} takes no format and no conversion")
    if missing := [f for f in required if f not in fields]:
        raise ValueError(f"{where}: the placeholder {{{missing[0]}}} is required")


def load_catalogue(path: Path | None = None, task: Task = "ranking") -> Catalogue:
    """Load and check a catalogue.

    Args:
        path: a YAML file of the shape of `catalogue/patterns.yaml`, which may leave out what it does not change and may
            add a `domains` section; None loads the built-in one.
        task: what its prompts ask; `catalogue/ratings.yaml` holds what differs where that is a rating.

    Raises:
        CatalogueError: the file cannot be read, is not YAML, or a check failed; the message names file and field.
    """
    package = resources.files("promptailor.prompts.catalogue")
    raw: dict[str, Any] = yaml.safe_load(package.joinpath("patterns.yaml").read_text("utf-8"))
    raw["domains"] = yaml.safe_load(package.joinpath("domains.yaml").read_text("utf-8"))
    if task == "rating":
        raw |= yaml.safe_load(package.joinpath("ratings.yaml").read_text("utf-8"))
    if path is not None:
        own = _read_yaml(path)
        domains = own.pop("domains", {})
        if not isinstance(domains, dict):
            raise CatalogueError(f"catalogue file {path}: domains: expected a mapping, found {type(domains).__name__}")
        raw["domains"] |= domains
        raw["editions"] = []
        raw |= own
    try:
        return Catalogue.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise CatalogueError(f"{path or 'built-in catalogue'}: {where + ': ' if where else ''}{message}") from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise CatalogueError(f"catalogue file {path}: {reason}") from None
    if not isinstance(content, dict):
        raise CatalogueError(f"catalogue file {path}: expected a mapping of patterns, found {type(content).__name__}")
    return content


def dump_catalogue(catalogue: Catalogue) -> str:
    """Return a catalogue as the YAML that `load_catalogue` reads, whole."""
    content = catalogue.model_dump(mode="json", exclude_defaults=True)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)
