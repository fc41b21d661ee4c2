"""Rules read what visitors write: kinds, titles, years, places of the last list, and what is to be done."""

from __future__ import annotations

from typing import Any

import pytest

from promptailor.graph.chat.rules import ChatRules
from promptailor.graph.chat.state import Understood
from promptailor.prompts.chat import load_chat_words
from tests.films import film_retriever, title_of

RULES = ChatRules(load_chat_words(), film_retriever())
SHOWN = ("3", "1", "5", "15")
"""Star Wars, Alien, Blade Runner, Sleepless in Seattle."""
VIOLENT = {"Action", "Crime", "Horror", "War", "Thriller"}


def read(message: str, *, after_a_list: bool = True) -> dict[str, Any]:
    """What was read, titles for ids, without what is empty."""
    found = RULES.read(message, SHOWN if after_a_list else ())
    fields = {name: value for name, value in found.model_dump().items() if value and name not in ("source", "text")}
    for name in ("anchors", "liked", "disliked", "seen"):
        if name in fields:
            fields[name] = {title_of(item_id) for item_id in fields[name]}
    for name in ("wanted", "avoided", "lessened"):
        if name in fields:
            fields[name] = set(fields[name])
    return fields


FIRST = {
    "a comedy": {"act": "recommend", "wanted": {"Comedy"}},
    "I'd like a funny crime movie, please!": {"act": "recommend", "wanted": {"Comedy", "Crime"}},
    "sci-fi or westerns": {"act": "recommend", "wanted": {"Sci-Fi", "Western"}},
    "Show me SCIENCE FICTION": {"act": "recommend", "wanted": {"Sci-Fi"}},
    "something romantic without horror": {"act": "recommend", "wanted": {"Romance"}, "avoided": {"Horror"}},
    "no horror, war or crime please, but a western": {
        "act": "recommend", "avoided": {"Horror", "War", "Crime"}, "wanted": {"Western"},
    },
    "no Godfathers and no aliens": {"act": "recommend", "avoided": {"Sci-Fi"}, "without": ("godfathers",)},
    "anything but westerns": {"act": "recommend", "avoided": {"Western"}},
    "I don't like horror but I love comedies": {"act": "recommend", "avoided": {"Horror"}, "wanted": {"Comedy"}},
    "nothing violent": {"act": "recommend", "avoided": VIOLENT},
    "like Alien": {"act": "recommend", "anchors": {"Alien"}},
    "something like alien": {"act": "recommend", "anchors": {"Alien"}},
    "films similar to The Godfather and Heat": {"act": "recommend", "anchors": {"The Godfather", "Heat"}},
    "similar to godfather": {"act": "recommend", "anchors": {"The Godfather"}},
    "Star Wars": {"act": "recommend", "anchors": {"Star Wars"}},
    "casablanca": {"act": "recommend", "anchors": {"Casablanca"}},
    'in the style of "Big"': {"act": "recommend", "anchors": {"Big"}},
    "I loved Toy Story and Aladdin": {"act": "recommend", "liked": {"Toy Story", "Aladdin"}},
    "I loved Toy Story, Aladdin and Big": {"act": "recommend", "liked": {"Toy Story", "Aladdin", "Big"}},
    "like Heat, Fargo, or Casablanca": {"act": "recommend", "anchors": {"Heat", "Fargo", "Casablanca"}},
    "I hated Scream, a western please": {"act": "recommend", "disliked": {"Scream"}, "avoided": {"Western"}},
    "I hated Scream. A western, please": {"act": "recommend", "disliked": {"Scream"}, "wanted": {"Western"}},
    "I hated Scream": {"act": "recommend", "disliked": {"Scream"}},
    "I have seen Fargo": {"act": "recommend", "seen": {"Fargo"}},
    "a western from the 80s": {"act": "recommend", "wanted": {"Western"}, "years": (1980, 1989)},
    "the nineteen eighties": {"act": "recommend", "years": (1980, 1989)},
    "comedies of the 1990s": {"act": "recommend", "wanted": {"Comedy"}, "years": (1990, 1999)},
    "films from 1995": {"act": "recommend", "years": (1995, 1995)},
    "dramas before 1960": {"act": "recommend", "wanted": {"Drama"}, "years": (None, 1959)},
    "dramas until the 60s": {"act": "recommend", "wanted": {"Drama"}, "years": (None, 1969)},
    "horror since 1990": {"act": "recommend", "wanted": {"Horror"}, "years": (1990, None)},
    "between 1970 and 1985": {"act": "recommend", "years": (1970, 1985)},
    "something recent": {"act": "recommend", "years": (1994, None)},
    "old westerns": {"act": "recommend", "wanted": {"Western"}, "years": (None, 1970)},
    "12 Monkeys": {"act": "recommend", "anchors": {"12 Monkeys"}},
    "like 2001: A Space Odyssey": {"act": "recommend", "anchors": {"2001: A Space Odyssey"}},
    "like The Matrix": {"act": "recommend", "unknown": ("The Matrix",)},
    "I feel like laughing": {"act": "recommend", "wanted": {"Comedy"}},
    "war films that aren't too violent": {"act": "recommend", "wanted": {"War"}, "lessened": VIOLENT - {"War"}},
    "not too dark, funny, for the whole family": {
        "act": "recommend", "lessened": {"Horror", "Thriller", "Film-Noir"}, "wanted": {"Comedy", "Children's"},
    },
    "I prefer dramas over comedies": {"act": "recommend", "wanted": {"Drama"}, "lessened": {"Comedy"}},
    "What's the best movie of 1994?": {"act": "recommend", "years": (1994, 1994)},
    "what should I watch tonight?": {"act": "recommend"},
    "surprise me": {"act": "recommend"},
    "I am a teacher who loves Star Wars and hates horror": {
        "act": "describe", "liked": {"Star Wars"}, "avoided": {"Horror"},
    },
    "I'm looking for a big comedy": {"act": "recommend", "wanted": {"Comedy"}},
    "I am in the mood for crime": {"act": "recommend", "wanted": {"Crime"}},
    "hello": {"act": "greeting"},
    "Hi, a comedy please": {"act": "recommend", "wanted": {"Comedy"}},
    "thanks!": {"act": "thanks"},
    "help": {"act": "help"},
    "what can you do?": {"act": "help"},
    "start over": {"act": "reset"},
    "asdf qwerty": {"act": "unclear"},
    "": {"act": "unclear"},
    "!!! ... ???": {"act": "unclear"},
    "the heat is unbearable today": {"act": "unclear"},
}  # fmt: skip

AFTER_A_LIST = {
    "less violent": {"act": "refine", "lessened": VIOLENT},
    "but less violence and more fun": {"act": "refine", "lessened": VIOLENT, "wanted": {"Comedy"}},
    "no more horror": {"act": "refine", "avoided": {"Horror"}},
    "something like the second one": {"act": "recommend", "anchors": {"Alien"}},
    "more like number 3": {"act": "recommend", "anchors": {"Blade Runner"}},
    "similar to #4": {"act": "recommend", "anchors": {"Sleepless in Seattle"}},
    "like the last one": {"act": "recommend", "anchors": {"Sleepless in Seattle"}},
    "more of these": {"act": "more", "anchors": {"Star Wars", "Alien", "Blade Runner"}},
    "not that one": {"act": "refine", "disliked": {"Star Wars"}},
    "not the second, please": {"act": "refine", "disliked": {"Alien"}},
    "none of these": {"act": "refine", "disliked": {"Star Wars", "Alien", "Blade Runner", "Sleepless in Seattle"}},
    "I've seen the first two": {"act": "refine", "seen": {"Star Wars", "Alien"}},
    "I've already seen it": {"act": "refine", "seen": {"Star Wars"}},
    "I have seen 1, 2 and 4": {"act": "refine", "seen": {"Star Wars", "Alien", "Sleepless in Seattle"}},
    "no, too violent": {"act": "refine", "lessened": VIOLENT},
    "too old": {"act": "refine", "years": (1994, None)},
    "why did you recommend Alien?": {"act": "why", "anchors": {"Alien"}, "place": 2},
    "I loved the third": {"act": "refine", "liked": {"Blade Runner"}},
    "more": {"act": "more"},
    "show me more": {"act": "more"},
    "something else": {"act": "more"},
    "why the third?": {"act": "why", "place": 3},
    "why?": {"act": "why"},
    "tell me about the second one": {"act": "why", "place": 2},
    "what about the second?": {"act": "why", "place": 2},
    "something like the ninth": {"act": "why", "missing_place": True},
    "a western": {"act": "recommend", "wanted": {"Western"}},
    "make it a comedy": {"act": "refine", "wanted": {"Comedy"}},
    "only from the 80s": {"act": "refine", "years": (1980, 1989)},
}  # fmt: skip


@pytest.mark.parametrize(("message", "expected"), FIRST.items())
def test_a_first_message_is_read(message: str, expected: dict[str, Any]) -> None:
    assert read(message, after_a_list=False) == expected


@pytest.mark.parametrize(("message", "expected"), AFTER_A_LIST.items())
def test_a_message_after_a_list_is_read(message: str, expected: dict[str, Any]) -> None:
    assert read(message) == expected


def test_places_mean_nothing_before_there_is_a_list() -> None:
    assert "anchors" not in read("something like the second one", after_a_list=False)


def test_a_data_set_without_a_kind_passes_its_words_over() -> None:
    words = load_chat_words()
    assert words.kind_phrases(("Sci-Fi",)).get(("funny",)) is None
    assert words.kind_phrases(("sci-fi",))[("space",)] == ("sci-fi",)


def test_a_long_message_is_read_from_its_beginning() -> None:
    found = RULES.read("a comedy " + "blah " * 10_000 + "a western")
    assert (found.wanted, found.cut) == (("Comedy",), True)


def test_understood_is_plain_json() -> None:
    found = RULES.read("comedies from the 80s like Alien")
    assert Understood.model_validate_json(found.model_dump_json()) == found
