"""Assembly: a request and a prompt specification become the messages a model reads. Pure; no label can reach it.

Titles are untrusted. They are stripped of control characters and of the fence's own brackets, shortened, and stand
inside fences; candidates are shown in an order keyed by (seed, user, sample), so no title can know its own number.
"""

from __future__ import annotations

import hashlib
import random
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TypeVar

from promptailor.prompts.domain import MAX_TASTE_LENGTH, Item, Model, RankRequest, UserProfile
from promptailor.prompts.llm import Message
from promptailor.prompts.patterns import Catalogue, PromptSpec, SentencePattern

T = TypeVar("T")

MAX_TITLE_LENGTH = 200

_NO_FENCES = str.maketrans("<>＜＞﹤﹥", "‹›‹›‹›")  # the wide and small forms read like the brackets to some tokenizers


class Prompt(Model):
    """A prompt ready to send, whatever it asks."""

    system: str
    user: str
    spec: PromptSpec
    sentences: dict[SentencePattern, str]
    """The sentences as shown, refined ones included."""
    history_length: int
    """Interactions really shown; at most `spec.history_length`."""
    digest: str

    @property
    def messages(self) -> tuple[Message, ...]:
        """The chat messages; a prompt without a role has no system message."""
        system = (Message(role="system", content=self.system),) if self.system else ()
        return (*system, Message(role="user", content=self.user))


class AssembledPrompt(Prompt):
    """A prompt to rank candidates, and what is needed to read its answer."""

    triggers: str = ""
    """Words of the last line, where a policy added one."""
    shown: tuple[Item, ...]
    """Candidates in shown order: the candidate behind number `n` is `shown[n - 1]`."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The candidates' numbers in shown order."""
        return tuple(str(n) for n in range(1, len(self.shown) + 1))


def assemble(
    request: RankRequest,
    spec: PromptSpec,
    catalogue: Catalogue,
    *,
    seed: int,
    sample_index: int = 0,
    refined: Mapping[SentencePattern, str] | None = None,
    triggers: str = "",
    summaries: bool = False,
) -> AssembledPrompt:
    """Write the prompt of one request.

    Args:
        request: who asks, with which history and candidates.
        spec: which sentence of each pattern, and how much history.
        catalogue: where the sentences stand.
        seed: the run's seed; with `user_id` and `sample_index` it fixes the order the candidates are shown in.
        sample_index: which of several permutations of the same request.
        refined: sentences that replace the catalogue's own (RPP+).
        triggers: words that stand as the last line (PAP-REC). A blank stands before the first of them too, so that
            every one is tokenised as a word inside a line is.
        summaries: whether candidates that have one are shown with their summary (AGP).
    """
    sentences = choose_sentences(request.domain, spec, catalogue, refined or {})
    recent = most_recent(request.history, spec)
    shown = permute(request.candidates, seed, request.user_id, sample_index)
    words = catalogue.words(request.domain)

    parts: list[str] = []
    if profile := show_profile(request.user_profile, request.domain, spec, catalogue):
        parts.append(profile)
    if recent:
        lines = [f"- {clean_title(item.title)}" for item in recent]
        parts.append(fence(catalogue.history_records.text.format_map(words), "history", lines))
    lines = [f"{n}. {show_item(item, summaries=summaries)}" for n, item in enumerate(shown, 1)]
    parts.append(fence(catalogue.candidates.text.format_map(words), "candidates", lines))
    parts.extend(sentences[name] for name in ("reasoning_guidance", "output_format") if name in sentences)
    if triggers:
        parts.append(f" {triggers}")
    system, user = sentences.get("role_playing", ""), "\n".join(parts)
    return AssembledPrompt(
        system=system,
        user=user,
        spec=spec,
        sentences=sentences,
        triggers=triggers,
        shown=shown,
        history_length=len(recent),
        digest=digest_of(system, user),
    )


def permute(candidates: tuple[Item, ...], seed: int, user_id: str, sample_index: int) -> tuple[Item, ...]:
    """Return the candidates in the order keyed by (seed, user_id, sample_index), the same on every machine."""
    key = hashlib.sha256(f"{seed}\0{user_id}\0{sample_index}".encode()).digest()
    shown = list(candidates)
    random.Random(key).shuffle(shown)
    return tuple(shown)


def clean_title(title: str) -> str:
    """Make an untrusted title safe to show: one line, no control characters, no fence brackets, bounded length."""
    return _clean_line(title, MAX_TITLE_LENGTH)


def show_item(item: Item, *, summaries: bool) -> str:
    """Return an item's line: its title, and its summary behind a dash where it has one that is to be shown."""
    title = clean_title(item.title)
    return f"{title} – {clean_title(item.summary)}" if summaries and item.summary else title


def clean_text(text: str, max_length: int = MAX_TASTE_LENGTH) -> str:
    """Make untrusted free text safe to show: its lines cleaned like titles, the empty ones left out.

    Args:
        text: any string.
        max_length: characters of the whole at most.
    """
    lines = (_clean_line(line, max_length) for line in text[: 4 * max_length].splitlines())
    whole = "\n".join(line for line in lines if line)
    return whole if len(whole) <= max_length else whole[: max_length - 1].rstrip() + "…"


def _clean_line(text: str, max_length: int) -> str:
    head = text[: 4 * max_length]
    visible = "".join(c if unicodedata.category(c)[0] != "C" else " " for c in head.translate(_NO_FENCES))
    line = " ".join(visible.split())
    return line if len(line) <= max_length else line[: max_length - 1] + "…"


def choose_sentences(
    domain: str, spec: PromptSpec, catalogue: Catalogue, refined: Mapping[SentencePattern, str]
) -> dict[SentencePattern, str]:
    """Return the sentences of a prompt with the domain's words filled in; `refined` ones stand for the catalogue's."""
    chosen: dict[SentencePattern, int | None] = {
        "role_playing": spec.role_playing,
        "reasoning_guidance": spec.reasoning_guidance,
        "output_format": spec.output_format,
    }
    return {
        name: refined.get(name) or catalogue.fill(catalogue.sentences(name)[index], domain)
        for name, index in chosen.items()
        if index is not None
    }


def most_recent(history: tuple[T, ...], spec: PromptSpec) -> tuple[T, ...]:
    """Return the part of a history, oldest first, that a prompt shows."""
    return history[len(history) - min(spec.history_length, len(history)) :]


def show_profile(profile: UserProfile | None, domain: str, spec: PromptSpec, catalogue: Catalogue) -> str:
    """Return the section with the fields of a user's profile that a prompt shows; empty where it shows none."""
    if profile is None:
        return ""
    pattern = catalogue.user_profile
    values = {field: getattr(profile, field, None) for field in pattern.subsets[spec.user_profile]}
    lines = [f"- {pattern.field_texts[f].format(value=_show_value(f, v))}" for f, v in values.items() if v]
    return fence(pattern.text.format_map(catalogue.words(domain)), "profile", lines) if lines else ""


def _show_value(field: str, value: str) -> str:
    """Clean the value of a profile field; the taste keeps its lines, indented, to look like no other field."""
    return clean_text(value).replace("\n", "\n  ") if field == "taste" else clean_title(value)


def fence(heading: str, name: str, lines: Sequence[str]) -> str:
    """Return a section of untrusted lines, each of them cleaned, between the marks of a fence."""
    body = "\n".join(lines)
    return f"{heading}\n<{name}>\n{body}\n</{name}>"


def digest_of(system: str, user: str) -> str:
    """Hex digest of a prompt's text."""
    return hashlib.sha256(f"{system}\0{user}".encode()).hexdigest()[:16]
