"""Item summaries and user profiles that a model writes (AGP): what it is asked, and how its answers are read. Pure.

Answers are untrusted like titles, because what stands in a title can end up in them: they are cleaned, bounded, and
shown between fences only. One that holds nothing is None: the prompt then does without, and somebody counts it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from promptailor.prompts.assemble import clean_text, clean_title, fence, show_item
from promptailor.prompts.domain import Item, RankRequest, UserProfile
from promptailor.prompts.guidance import Guidance
from promptailor.prompts.llm import Message, ModelCall
from promptailor.prompts.patterns import Catalogue

_WORD = re.compile(r"\w")


def summary_call(item: Item, domain: str, catalogue: Catalogue, guidance: Guidance) -> ModelCall:
    """Return what is asked about one item; a summary is of nobody's data, so all splits share it."""
    lines = [f"- {clean_title(item.title)}"]
    if item.categories:
        lines.append(f"- {clean_title(guidance.kinds.format(kinds=', '.join(item.categories)))}")
    asked = fence(guidance.summarise.format_map(catalogue.words(domain)), "item", lines)
    return ModelCall(messages=(Message(role="user", content=asked),), split="serve")


def parse_summary(answer: str) -> str | None:
    """Read a summary: one line, as long as a title at most; None where the answer has no word."""
    line = clean_title(" ".join(_spoken(answer).splitlines()))
    return line if _WORD.search(line) else None


def profile_messages(
    request: RankRequest, instruction: str, n_items: int, catalogue: Catalogue, *, summaries: bool
) -> tuple[Message, ...]:
    """Return what the profiler is asked about one user.

    Args:
        request: whose profile.
        instruction: p_gen, a template of domain words.
        n_items: how many of the most recent items it sees.
        catalogue: has the sentence above the history, and the domain's words.
        summaries: whether items that have one are shown with their summary.
    """
    words = catalogue.words(request.domain)
    lines = [f"- {show_item(item, summaries=summaries)}" for item in request.history[-n_items:]]
    history = fence(catalogue.history_records.text.format_map(words), "history", lines)
    return (Message(role="user", content=f"{history}\n{instruction.format_map(words)}"),)


def parse_profile(answer: str) -> str | None:
    """Read a profile: its lines, cleaned and bounded; None where the answer has no word."""
    text = clean_text(_spoken(answer))
    return text if _WORD.search(text) else None


def with_profile(profile: UserProfile | None, written: str) -> UserProfile:
    """Return a user's profile with a written one: behind what the user has said, where that is known."""
    known = profile or UserProfile()
    taste = clean_text("\n".join(filter(None, (known.taste, written))))
    return known.model_copy(update={"taste": taste})


def shown_items(history: Sequence[Item], candidates: Sequence[Item], n_history: int) -> list[Item]:
    """Return the items that prompts show with a summary and that have none yet, each once.

    Args:
        history: oldest first.
        candidates: all of them are shown.
        n_history: how many of the most recent items of the history are.
    """
    recent = history[len(history) - min(n_history, len(history)) :]
    return list({item.item_id: item for item in (*recent, *candidates) if item.summary is None}.values())


def with_summaries(request: RankRequest, summaries: Mapping[str, str | None]) -> RankRequest:
    """Return a request whose items have the summaries that were written, by item id."""

    def summarised(items: Sequence[Item]) -> tuple[Item, ...]:
        return tuple(
            item.model_copy(update={"summary": text}) if (text := summaries.get(item.item_id)) else item
            for item in items
        )

    return request.model_copy(
        update={"history": summarised(request.history), "candidates": summarised(request.candidates)}
    )


def _spoken(answer: str) -> str:
    """Return an answer without the thinking before it."""
    return answer.rpartition("</think>")[2].strip()
