"""Which words and lines become tokens: everything the catalogue and the tasks can say, and the data set's own texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from promptailor.app.backends.embedded.tasks import Tasks
from promptailor.app.backends.embedded.tokenizer import Vocabulary, collect_words, unique_lines
from promptailor.evals.datasets import Dataset
from promptailor.prompts.patterns import SENTENCE_PATTERNS, Catalogue


def prompt_words(catalogue: Catalogue, tasks: Tasks, domain: str) -> tuple[str, ...]:
    """Return the words of every prompt and answer of a domain: the part of the vocabulary that is not from the data."""
    return collect_words(_texts(catalogue, tasks, domain))


def prompt_phrases(catalogue: Catalogue, tasks: Tasks, domain: str) -> tuple[str, ...]:
    """Return what ranking prompts are made of, whole: headings with their fences, sentences, and their paraphrases."""
    words = catalogue.words(domain)
    headings = (
        f"{catalogue.history_records.text}\n<history>",
        f"{catalogue.candidates.text}\n<candidates>",
        f"{catalogue.user_profile.text}\n<profile>",
    )
    filled = (heading.format_map(words) for heading in headings)
    sentences = (text for variants in sentence_variants(catalogue, tasks, domain) for text in variants)
    return tuple(dict.fromkeys((*filled, *sentences)))


def sentence_variants(catalogue: Catalogue, tasks: Tasks, domain: str) -> list[list[str]]:
    """Return every catalogue sentence with its paraphrases, domain words filled in."""
    words = catalogue.words(domain)
    return [
        [text.format_map(words) for text in (sentence.text, *tasks.paraphrases.get(pattern, {}).get(sentence.id, ()))]
        for pattern in SENTENCE_PATTERNS
        for sentence in catalogue.sentences(pattern)
    ]


def data_vocabulary(
    phrases: Sequence[str], words: Sequence[str], item_ids: Sequence[str], dataset: Dataset, catalogue: Catalogue
) -> Vocabulary:
    """Add what the data set says to the prompts' own language: category words, the items' titles, and profile lines."""
    items = [dataset.items[item_id] for item_id in item_ids]
    categories = collect_words(text for item in items for kind in item.categories for text in (kind, f" {kind}"))
    titles = (item.title for item in items)
    field_texts = catalogue.user_profile.field_texts
    profile_lines = sorted(
        {
            field_texts[field].format(value=value)
            for profile in dataset.profiles.values()
            for field in catalogue.user_profile.fields
            if (value := getattr(profile, field, None))
        }
    )
    return Vocabulary(
        phrases=tuple(phrases),
        words=tuple(dict.fromkeys((*words, *categories))),
        lines=unique_lines((*titles, *profile_lines)),
    )


def _texts(catalogue: Catalogue, tasks: Tasks, domain: str) -> Iterator[str]:
    """Yield texts that show every word in every place it can have: first, after a line break, inside a line."""
    words = catalogue.words(domain)
    fences = ("history", "candidates", "profile", "item")
    yield "".join(f"\n<{fence}>\n- -\n</{fence}>" for fence in fences)
    headings = (catalogue.history_records.text, catalogue.candidates.text, catalogue.user_profile.text)
    answers = (tasks.summarise.similar, tasks.profile.favourites)
    instructions = (*tasks.summarise.instructions, *tasks.profile.instructions)
    sentences = (text for variants in sentence_variants(catalogue, tasks, domain) for text in variants)
    for filled in (*(text.format_map(words) for text in (*headings, *answers, *instructions)), *sentences):
        yield from (filled, f"\n{filled}", catalogue.refine.text.format(sentence=filled))
    yield ", ".join(f"{year}s" for year in range(1900, 2030, 10))
    lines = (tasks.summarise.kinds, tasks.summarise.decade, tasks.profile.kinds, tasks.profile.decades)
    for line in lines:
        filled = line.format(kinds="1, 1", decade=1990, decades="1990s, 1990s")
        yield from (filled, f"\n{filled}")
    yield from ("1, 2", "1 > 2", "1. ")
