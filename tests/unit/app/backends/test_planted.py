"""The simulated LLM answers as its world says, from the prompt's text alone."""

from __future__ import annotations

import asyncio
import itertools
import random
from statistics import fmean, pstdev

import pytest
from langchain_core.messages import HumanMessage, SystemMessage

from promptailor.app.backends.planted import PlantedChat, SentenceRecogniser, draw_place
from promptailor.evals.planted import chance, gains
from promptailor.policies.reward import ndcg
from promptailor.prompts.assemble import AssembledPrompt, assemble
from promptailor.prompts.domain import Item, RankRequest
from promptailor.prompts.parse import parse_ranking
from promptailor.prompts.patterns import SENTENCE_PATTERNS, PromptSpec, SentencePattern, load_catalogue

CATALOGUE = load_catalogue()
NOTHING = PromptSpec(role_playing=None, reasoning_guidance=None, output_format=None, history_length=12)


@pytest.fixture(scope="module")
def chat() -> PlantedChat:
    return PlantedChat.from_world("1", seed=0)


def cases(chat: PlantedChat, n_users: int, n_candidates: int = 10) -> list[tuple[RankRequest, Item]]:
    dataset, rng = chat.world.dataset(n_users, 0), random.Random(0)
    made = []
    for user_id, ids in dataset.sequences.items():
        others = rng.sample([item for i, item in dataset.items.items() if i not in ids], n_candidates - 1)
        history, target = tuple(dataset.items[i] for i in ids[:-1]), dataset.items[ids[-1]]
        request = RankRequest(user_id=user_id, history=history, candidates=(target, *others), domain="neutral")
        made.append((request, target))
    return made


def answer(chat: PlantedChat, prompt: AssembledPrompt) -> str:
    return chat.answer(prompt.system, prompt.user)


def reward(chat: PlantedChat, request: RankRequest, target: Item, spec: PromptSpec, sample: int = 0) -> float:
    prompt = assemble(request, spec, CATALOGUE, seed=0, sample_index=sample)
    parsed = parse_ranking(answer(chat, prompt), prompt.shown)
    assert parsed.report.valid
    return ndcg([prompt.shown[place].item_id for place in parsed.order], {target.item_id}, 10)


@pytest.mark.parametrize("n_candidates", [5, 10, 20])
@pytest.mark.parametrize("kind", ["best", "manual", "nothing"])
def test_the_mean_reward_is_the_worlds_quality(chat: PlantedChat, kind: str, n_candidates: int) -> None:
    rewards, qualities = [], []
    for request, target in cases(chat, 120, n_candidates):
        spec = {"best": chat.world.best_spec(request), "manual": CATALOGUE.manual_prompt, "nothing": NOTHING}[kind]
        rewards += [reward(chat, request, target, spec, sample) for sample in range(4)]
        qualities += [chat.world.quality(request, spec)] * 4
    error = pstdev(r - q for r, q in zip(rewards, qualities, strict=True)) / len(rewards) ** 0.5
    assert abs(fmean(rewards) - fmean(qualities)) < 4 * error


@pytest.mark.parametrize("level", [0.46, 0.574, 0.7, 0.854, 0.99, 1.0])
@pytest.mark.parametrize("n_candidates", [10, 20])
def test_a_drawn_place_is_worth_the_level_on_average(level: float, n_candidates: int) -> None:
    rng = random.Random(1)
    drawn = [gains(n_candidates)[draw_place(level, n_candidates, rng)] for _ in range(20_000)]
    assert fmean(drawn) == pytest.approx(level, abs=4 * max(pstdev(drawn), 1e-9) / len(drawn) ** 0.5)


def test_noise_has_the_size_that_is_documented(chat: PlantedChat) -> None:
    made = cases(chat, 400)
    best = [reward(chat, request, target, chat.world.best_spec(request)) for request, target in made]
    assert 0.12 <= pstdev(best) <= 0.2


def test_the_null_world_is_noise_around_chance_whatever_the_prompt() -> None:
    chat = PlantedChat.from_world("null", seed=0)
    made = cases(chat, 400)
    full = NOTHING.model_copy(update={"role_playing": 0, "reasoning_guidance": 3, "output_format": 1})
    for spec in (full, CATALOGUE.manual_prompt, NOTHING.model_copy(update={"history_length": 0})):
        rewards = [reward(chat, request, target, spec) for request, target in made]
        assert pstdev(rewards) >= 0.15
        assert abs(fmean(rewards) - chance(10)) < 4 * pstdev(rewards) / len(rewards) ** 0.5


def test_a_second_to_last_item_is_found_as_well(chat: PlantedChat) -> None:
    differences = []
    for request, last in cases(chat, 200):
        second_to_last = request.history[-1]
        earlier = request.model_copy(
            update={"history": request.history[:-1], "candidates": (second_to_last, *request.candidates[1:])}
        )
        spec = chat.world.best_spec(earlier)
        assert last not in earlier.candidates
        differences.append(reward(chat, earlier, second_to_last, spec) - chat.world.quality(earlier, spec))
    assert abs(fmean(differences)) < 4 * pstdev(differences) / len(differences) ** 0.5


def test_the_same_prompt_gets_the_same_answer_and_another_seed_other_noise(chat: PlantedChat) -> None:
    twin, other = PlantedChat.from_world("1", seed=0), PlantedChat.from_world("1", seed=1)
    prompts = [assemble(request, CATALOGUE.manual_prompt, CATALOGUE, seed=0) for request, _ in cases(chat, 20)]
    answers = [answer(chat, prompt) for prompt in prompts]
    assert answers == [answer(twin, prompt) for prompt in prompts]
    assert answers != [answer(other, prompt) for prompt in prompts]


@pytest.mark.parametrize("index", range(len(CATALOGUE.output_format.sentences)))
def test_answers_follow_the_output_format(chat: PlantedChat, index: int) -> None:
    style = CATALOGUE.output_format.sentences[index]
    request, _ = cases(chat, 1)[0]
    prompt = assemble(request, NOTHING.model_copy(update={"output_format": index}), CATALOGUE, seed=0)
    entries = answer(chat, prompt).split(style.separator)
    assert len(entries) == 10
    assert all(("." in entry) == style.titles for entry in entries)


def test_every_combination_of_sentences_is_recognised() -> None:
    recogniser = SentenceRecogniser(CATALOGUE)
    guidances: list[int | None] = [None, *range(len(CATALOGUE.reasoning_guidance.sentences))]
    formats: list[int | None] = [None, *range(len(CATALOGUE.output_format.sentences))]
    for domain, guidance, output_format in itertools.product(CATALOGUE.domains, guidances, formats):
        chosen: dict[SentencePattern, int | None] = {"reasoning_guidance": guidance, "output_format": output_format}
        sentences = {p: CATALOGUE.sentences(p)[n] for p, n in chosen.items() if n is not None}
        tail = "\n".join(CATALOGUE.fill(sentence, domain) for sentence in sentences.values())
        for pattern in chosen:
            expected = sentences[pattern].id if pattern in sentences else None
            assert recogniser.recognise(pattern, tail) == expected, tail


def test_a_prompt_without_a_role_has_none() -> None:
    assert SentenceRecogniser(CATALOGUE).recognise("role_playing", "") is None


@pytest.mark.parametrize(
    ("pattern", "rewrite", "sentence_id"),
    [
        (
            "role_playing",
            "Be a wise psychologist who truly understands the interests people have.",
            "psychologist",
        ),
        (
            "reasoning_guidance",
            "Think carefully, step by step, about the candidates, then rank.",
            "step_by_step",
        ),
        ("output_format", "Write one chain of numbers such as 3 > 1 > 2, best first.", "arrows"),
    ],
)
def test_a_rewritten_sentence_keeps_its_effect(pattern: SentencePattern, rewrite: str, sentence_id: str) -> None:
    assert SentenceRecogniser(CATALOGUE).recognise(pattern, rewrite) == sentence_id


def test_it_refines_sentences_without_changing_what_they_do(chat: PlantedChat) -> None:
    recogniser = SentenceRecogniser(CATALOGUE)
    for pattern in SENTENCE_PATTERNS:
        for sentence in CATALOGUE.sentences(pattern):
            text = CATALOGUE.fill(sentence, "movies")
            refined = answer_to_user(chat, CATALOGUE.refine.text.format(sentence=text))
            assert refined != text
            assert recogniser.recognise(pattern, refined) == sentence.id


def answer_to_user(chat: PlantedChat, text: str) -> str:
    return chat.invoke([HumanMessage(text)]).text


def test_a_request_without_candidates_gets_an_answer(chat: PlantedChat) -> None:
    assert "no candidates" in answer_to_user(chat, "Describe this user.")


def test_it_is_a_langchain_model_that_ignores_labels(chat: PlantedChat) -> None:
    request, _ = cases(chat, 1)[0]
    prompt = assemble(request, CATALOGUE.manual_prompt, CATALOGUE, seed=0)
    messages = [SystemMessage(prompt.system), HumanMessage(prompt.user)]
    reply = chat.invoke(messages, labels=prompt.labels)
    assert reply.text == answer(chat, prompt)
    assert asyncio.run(chat.ainvoke(messages)).text == reply.text
    assert reply.usage_metadata is not None
    assert reply.usage_metadata["output_tokens"] == 10


def test_some_answers_can_be_made_invalid() -> None:
    chat = PlantedChat.from_world("1", seed=0)
    chat.invalid_rate = 0.3
    prompts = [assemble(request, CATALOGUE.manual_prompt, CATALOGUE, seed=0) for request, _ in cases(chat, 300)]
    invalid = [not parse_ranking(answer(chat, prompt), prompt.shown).report.valid for prompt in prompts]
    assert fmean(invalid) == pytest.approx(0.3, abs=0.1)
