"""What learners are handed: rewards on record, and episodes that a reward model plays as the graph does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from promptailor.evals.types import EvalCase
from promptailor.graph.build import build_rank_graph
from promptailor.graph.context import Context
from promptailor.graph.resources import Resources
from promptailor.graph.rollout import GraphEvaluator, paid_rewards, run_training, start_inputs, to_rollout
from promptailor.graph.state import TrainInput
from promptailor.policies.base import StepwisePolicy, Trial
from promptailor.policies.embeddings import ItemEmbeddings
from promptailor.policies.reward_model import RewardModel, play
from promptailor.policies.types import PaidReward
from promptailor.prompts.patterns import Catalogue


@pytest.fixture
def users(cases: Sequence[EvalCase]) -> list[TrainInput]:
    """Eight training users."""
    return [TrainInput.of(case.request, relevant_item_ids=[case.relevant_item_id]) for case in cases[:8]]


def test_every_reward_of_catalogue_sentences_is_told(
    resources: Resources, users: list[TrainInput], catalogue: Catalogue
) -> None:
    told: list[PaidReward] = []
    evaluator = GraphEvaluator(
        graph=build_rank_graph(resources, training=True),
        inputs_by_user={str(user.user_id): user for user in users},
        context=Context(split="train"),
        initial_length=1,
        record=told.extend,
    )
    spec, edited = catalogue.manual_prompt, {"role_playing": "You know every one of the {items}."}
    trials = [Trial(user_id=user, spec=spec) for user in evaluator.user_ids]
    trials.append(Trial(user_id=trials[0].user_id, spec=spec, sentences={"role_playing": edited["role_playing"]}))
    rewards = evaluator.rewards(trials)
    assert told == [
        PaidReward(user_id=t.user_id, spec=spec, reward=reward)
        for t, reward in zip(trials[:-1], rewards[:-1], strict=True)
    ]


def test_an_edited_sentence_is_what_the_model_reads(
    resources: Resources, users: list[TrainInput], catalogue: Catalogue
) -> None:
    graph = build_rank_graph(resources, training=True)
    trial = {"trial": catalogue.manual_prompt, "sentences": {"role_playing": "You know every one of the {items}."}}
    (output,) = run_training(graph, [users[0].model_copy(update=trial)], Context(split="train"), n_steps=1)
    assert output.trace[0].prompt.system == "You know every one of the items."
    (plain,) = run_training(
        graph, [users[0].model_copy(update=trial | {"sentences": {}})], Context(split="train"), n_steps=1
    )
    assert plain.trace[0].prompt.user == output.trace[0].prompt.user
    assert plain.trace[0].prompt.system != output.trace[0].prompt.system


def test_a_reward_model_plays_episodes_as_the_graph_does(
    resources: Resources, users: list[TrainInput], catalogue: Catalogue
) -> None:
    """The keyed team draws by its keys alone, so that both make the same prompts; the paid rewards say which."""
    team = resources.policies["rpp"]
    assert isinstance(team, StepwisePolicy)
    context = Context(policy="rpp", explore=True, seed=5, split="train")
    outputs = run_training(build_rank_graph(resources, training=True), users, context, n_steps=3)
    paid = paid_rewards(outputs)
    assert len(paid) == 3 * len(users)

    ids = [item.item_id for item in resources.items.values()]
    tensors = {
        "vectors": np.random.default_rng(0).normal(size=(len(ids), 4)).astype(np.float32),
        "weights": np.ones(len(ids), np.float32),
        "user_mean": np.zeros(4, np.float32),
        "user_scale": np.ones(1, np.float32),
    }
    starts = {str(user.user_id): start_inputs(user, catalogue.history_records.initial_length) for user in users}
    model = RewardModel(catalogue, ItemEmbeddings(ids, tensors), starts)
    model.fit(paid)
    played = play(team, model, [*starts.items()], until_step=3, seed=5, domain="neutral")
    for ours, output in zip(played, outputs, strict=True):
        theirs = to_rollout(output, catalogue.history_records.initial_length)
        for mine, step in zip(ours.transitions, theirs.transitions, strict=True):
            assert {p: c.action for p, c in mine.choices.items()} == {p: c.action for p, c in step.choices.items()}
            assert mine.history_length == step.history_length
            assert mine.inputs.sentences == step.inputs.sentences
            assert mine.inputs.history_length == step.inputs.history_length
