"""A small film data set for the tests of the chat: 26 films with kinds and years, and people of four tastes."""

from __future__ import annotations

import random

from promptailor.app.retrieval import CatalogueRetriever
from promptailor.evals.dataset_spec import DatasetSpec
from promptailor.evals.datasets import Dataset
from promptailor.prompts.domain import Item

FILMS: tuple[tuple[str, int, str], ...] = (
    ("Alien", 1979, "Action Horror Sci-Fi Thriller"),
    ("Aliens", 1986, "Action Sci-Fi Thriller War"),
    ("Star Wars", 1977, "Action Adventure Romance Sci-Fi War"),
    ("The Empire Strikes Back", 1980, "Action Adventure Drama Romance Sci-Fi War"),
    ("Blade Runner", 1982, "Film-Noir Sci-Fi"),
    ("2001: A Space Odyssey", 1968, "Drama Mystery Sci-Fi Thriller"),
    ("12 Monkeys", 1995, "Drama Sci-Fi"),
    ("The Shining", 1980, "Horror"),
    ("Psycho", 1960, "Horror Romance Thriller"),
    ("Scream", 1996, "Horror Thriller"),
    ("Heat", 1995, "Action Crime Thriller"),
    ("Fargo", 1996, "Crime Drama Thriller"),
    ("The Godfather", 1972, "Action Crime Drama"),
    ("Casablanca", 1942, "Drama Romance War"),
    ("Sleepless in Seattle", 1993, "Comedy Romance"),
    ("When Harry Met Sally...", 1989, "Comedy Romance"),
    ("Groundhog Day", 1993, "Comedy Romance"),
    ("Pretty Woman", 1990, "Comedy Romance"),
    ("Raising Arizona", 1987, "Comedy"),
    ("A Fish Called Wanda", 1988, "Comedy"),
    ("Big", 1988, "Children's Comedy"),
    ("Toy Story", 1995, "Animation Children's Comedy"),
    ("Aladdin", 1992, "Animation Children's Comedy Musical"),
    ("Unforgiven", 1992, "Western"),
    ("High Noon", 1952, "Western"),
    ("Young Guns", 1988, "Action Comedy Western"),
)
_TASTES = (range(0, 7), range(6, 14), range(13, 21), range(18, 26))


def film_dataset() -> Dataset:
    """Forty people of each taste, who mostly watch what is theirs; the last two films of each are held out."""
    items = {
        str(n): Item(item_id=str(n), title=title, categories=tuple(kinds.split()))
        for n, (title, _, kinds) in enumerate(FILMS, 1)
    }
    rng = random.Random("films")
    sequences: dict[str, tuple[str, ...]] = {}
    for taste, films in enumerate(_TASTES):
        for n in range(40):
            chosen = rng.sample([str(film + 1) for film in films], 5)
            stray = rng.choice([item_id for item_id in items if item_id not in chosen])
            sequences[f"t{taste}-{n}"] = (*chosen[:3], stray, *chosen[3:])
    return Dataset(
        spec=DatasetSpec(name="films", domain="movies", time="order"),
        items=items,
        sequences=sequences,
        times={user_id: tuple(map(float, range(len(ids)))) for user_id, ids in sequences.items()},
        years={str(n): year for n, (_, year, _) in enumerate(FILMS, 1)},
    )


def film_retriever() -> CatalogueRetriever:
    """The films as a retriever."""
    return CatalogueRetriever(load=film_dataset, domain="movies")


def title_of(item_id: str) -> str:
    """A film's title by its id."""
    return FILMS[int(item_id) - 1][0]
