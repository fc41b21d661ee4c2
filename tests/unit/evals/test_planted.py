"""The planted worlds hold what learners are tested against."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from promptailor.evals import planted
from promptailor.evals.datasets import Dataset
from promptailor.evals.planted import N_SEGMENTS, WORLDS, PlantedWorld, planted_world
from promptailor.policies.lightgcn import train_item_embeddings
from promptailor.prompts.domain import Item, RankRequest
from promptailor.prompts.errors import SpecError
from promptailor.prompts.patterns import PATTERNS, SENTENCE_PATTERNS, PromptSpec

LEARNABLE = [name for name in WORLDS if name != "null"]
N_STEPS = 3
"""Steps within which every best length must be reached, two interactions a step from one."""


def requests(world: PlantedWorld, n_users: int, seed: int, *, n_candidates: int = 10) -> list[RankRequest]:
    """Ask for each user's last item, among items the user never touched."""
    dataset, rng = world.dataset(n_users, seed), random.Random(seed)
    made = []
    for user_id, sequence in dataset.sequences.items():
        untouched = [item for item_id, item in dataset.items.items() if item_id not in sequence]
        candidates = [dataset.items[sequence[-1]], *rng.sample(untouched, n_candidates - 1)]
        history = tuple(dataset.items[item_id] for item_id in sequence[:-1])
        made.append(RankRequest(user_id=user_id, history=history, candidates=tuple(candidates), domain="neutral"))
    return made


def history_segments(world: PlantedWorld, items: Sequence[Item]) -> list[int | None]:
    return [world.segment(item.title) for item in items]


def test_a_world_is_fixed_by_its_name() -> None:
    first, again, other = planted_world("1"), planted_world("1"), planted_world("2")
    assert first.items == again.items
    assert first.best_prompts == again.best_prompts
    assert first.items != other.items
    assert first.best_prompts != other.best_prompts


def test_an_unknown_world_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SpecError, match=r"planted:9.*planted:1, .*planted:null"):
        planted_world("9")


def test_a_run_seed_draws_users_only() -> None:
    world = planted_world("1")
    first, again, other = world.dataset(20, 0), world.dataset(20, 0), world.dataset(20, 1)
    assert first.digest == again.digest
    assert first.items == other.items
    assert not first.sequences.keys() & other.sequences.keys()


@pytest.mark.parametrize("name", LEARNABLE)
def test_no_single_choice_suits_more_than_two_segments(name: str) -> None:
    world = planted_world(name)
    assert len(world.best_prompts) == N_SEGMENTS >= 6
    for pattern in SENTENCE_PATTERNS:
        known = {sentence.id for sentence in world.catalogue.sentences(pattern)}
        counts = Counter(best.sentences[pattern] for best in world.best_prompts)
        assert set(counts) <= known
        assert max(counts.values()) <= 2


@pytest.mark.parametrize("name", LEARNABLE)
def test_best_lengths_are_within_reach(name: str) -> None:
    world = planted_world(name)
    step = max(world.catalogue.history_records.increments)
    lengths = [best.history_length for best in world.best_prompts]
    assert len(set(lengths)) >= 5
    assert world.catalogue.history_records.initial_length <= min(lengths)
    assert max(lengths) <= world.catalogue.history_records.initial_length + step * N_STEPS
    assert max(lengths) <= min(planted.HISTORY_LENGTHS)


def test_segments_show_in_no_feature() -> None:
    dataset = planted_world("1").dataset(20, 0)
    assert not dataset.profiles
    assert not dataset.years
    assert all(not item.categories for item in dataset.items.values())


def test_ids_and_titles_say_nothing_of_segments() -> None:
    world = planted_world("1")
    segments = {item.item_id: world.segment(item.title) for item in world.items}
    neighbours = [segments[str(n)] == segments[str(n + 1)] for n in range(1, len(segments))]
    assert np.mean(neighbours) == pytest.approx(1 / N_SEGMENTS, abs=0.07)
    owners = {word: {segments[i.item_id] for i in world.items if word in i.title.split()} for word in _repeated(world)}
    assert any(len(found) > 1 for found in owners.values())


def _repeated(world: PlantedWorld) -> list[str]:
    counts = Counter(word for item in world.items for word in item.title.split())
    return [word for word, count in counts.items() if count > 1]


def test_histories_lie_in_one_segment_and_end_with_a_walk_on_its_ring() -> None:
    world = planted_world("1")
    dataset = world.dataset(200, 0)
    shares = []
    for sequence in dataset.sequences.values():
        items = [dataset.items[item_id] for item_id in sequence]
        assert len(set(sequence)) == len(sequence)
        before, second, last = items[-3:]
        assert world.next_title(before.title) == second.title
        assert world.next_title(second.title) == last.title
        body = history_segments(world, items[:-3])
        shares.append(np.mean([segment == world.segment(last.title) for segment in body]))
    assert np.mean(shares) == pytest.approx(planted.OWN_SHARE, abs=0.02)


@pytest.mark.parametrize("name", LEARNABLE)
def test_one_prompt_for_all_gets_at_most_three_quarters_of_the_optimum(name: str) -> None:
    world = planted_world(name)
    asked = requests(world, 500, seed=0)
    optimum = world.optimum(asked)
    assert optimum == pytest.approx(planted.chance(10) + sum(planted.WEIGHTS.values()))
    assert world.best_single(asked)[0] <= 0.75 * optimum


@pytest.mark.parametrize("name", LEARNABLE)
def test_personalising_each_pattern_is_worth_five_points(name: str) -> None:
    world = planted_world(name)
    asked = requests(world, 300, seed=0)
    single = world.best_single(asked)[1]
    for pattern in PATTERNS:
        field = "history_length" if pattern == "history_records" else pattern
        shared = [world.best_spec(r).model_copy(update={field: getattr(single, field)}) for r in asked]
        kept = np.mean([world.quality(r, spec) for r, spec in zip(asked, shared, strict=True)])
        assert world.optimum(asked) - kept >= 0.05, pattern


def test_best_single_and_optimum_are_the_maxima() -> None:
    world = planted_world("1")
    asked = requests(world, 12, seed=0)
    sizes = [range(world.catalogue.n_actions(pattern)) for pattern in SENTENCE_PATTERNS]
    specs = [
        PromptSpec(role_playing=r, reasoning_guidance=g, output_format=f, history_length=length)
        for r, g, f, length in itertools.product(*sizes, range(1, 9))
    ]
    qualities = np.array([[world.quality(request, spec) for spec in specs] for request in asked])
    assert world.optimum(asked) == pytest.approx(qualities.max(axis=1).mean())
    assert world.best_single(asked)[0] == pytest.approx(qualities.mean(axis=0).max())


def test_nothing_helps_without_history_or_with_somebody_elses() -> None:
    world = planted_world("1")
    request, other = requests(world, 2, seed=0)
    best = world.best_spec(request)
    assert world.quality(request, best) > planted.chance(10)
    assert world.quality(request, best.model_copy(update={"history_length": 0})) == planted.chance(10)
    assert world.quality(request.model_copy(update={"history": ()}), best) == planted.chance(10)
    swapped = request.model_copy(update={"history": other.history})
    assert world.quality(swapped, world.best_spec(swapped)) == planted.chance(10)


def test_in_the_null_world_no_sentence_and_no_length_matters() -> None:
    world = planted_world("null")
    asked = requests(world, 30, seed=0)
    single, spec = world.best_single(asked)
    empty = PromptSpec(role_playing=None, reasoning_guidance=None, output_format=None, history_length=0)
    assert single == pytest.approx(world.optimum(asked))
    for prompt in (spec, world.catalogue.manual_prompt, empty):
        assert {world.quality(request, prompt) for request in asked} == {planted.chance(10)}


def test_user_embeddings_show_the_segment_of_new_users() -> None:
    world = planted_world("1")
    known, new = world.dataset(200, 0), world.dataset(200, 1)
    embeddings = train_item_embeddings(known.training_sequences(), epochs=10, dimension=32)

    def users(seed_dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
        histories = [[seed_dataset.items[i] for i in ids[:-1]] for ids in seed_dataset.sequences.values()]
        segments = [world.segment(history[-1].title) for history in histories]
        return np.stack([embeddings.user(history) for history in histories]), np.array(segments)

    vectors, segments = users(known)
    centroids = np.stack([vectors[segments == segment].mean(axis=0) for segment in range(N_SEGMENTS)])
    new_vectors, new_segments = users(new)
    distances = ((new_vectors[:, None] - centroids[None]) ** 2).sum(axis=-1)
    assert (distances.argmin(axis=1) == new_segments).mean() >= 0.97
