"""What the tests of traces run in a process of its own: three steps of RPP+ over the planted world."""

from __future__ import annotations

import dataclasses
import sys

from pydantic import BaseModel

from promptailor.app.chat import chat_graph
from promptailor.app.settings import Settings
from promptailor.app.tracing import log_feedback, run_config
from promptailor.app.wiring import Workspace, train_inputs
from promptailor.graph.build import build_rank_graph
from promptailor.graph.context import Context
from promptailor.graph.rollout import run_training
from promptailor.graph.state import RankInput, RankOutput
from promptailor.prompts.domain import Item
from promptailor.prompts.errors import InputError
from tests.unit.graph.conftest import KeyedTeam

N_STEPS = 3
RAW = "raw-id-of-"
"""Before the id of every user, so that it is found wherever it is sent."""
KEY = "correct-horse-battery-staple"
"""In the environment, and in a title."""


class Done(BaseModel):
    """What really happened."""

    run_id: str
    answer: RankOutput
    rewards: list[list[float]]


def main() -> None:
    """Serve one user, with a thumb up; chat; train on two others; fail on a bad request."""
    workspace = Workspace(settings=Settings(), dataset_name="planted", model="planted:1", refiner="planted:1")
    # Without the encoder, which takes seconds to load, the guard on the meaning of rewrites is left out.
    resources = dataclasses.replace(workspace.resources({"rpp+": KeyedTeam(workspace.catalogue)}), encoder=None)
    users = [
        user.model_copy(update={"user_id": f"{RAW}{user.user_id}"})
        for user in train_inputs(workspace.cases(workspace.split.train[:3], 10, 0))
    ]
    context = Context(policy="rpp+", n_steps=N_STEPS, refine=True, explore=True)
    request = RankInput.model_validate(users[0].model_dump(include=set(RankInput.model_fields)))
    request.history.append(Item(item_id="key", title=f"The film of {KEY}"))
    graph, config = build_rank_graph(resources), run_config("rpp+", user_id=request.user_id)
    answer = RankOutput.model_validate(graph.invoke(request, config, context=context))
    run_id = str(config["run_id"])
    log_feedback(run_id, "thumbs", 1.0, comment=f"nice, {KEY}")
    chat = chat_graph(Settings(), model="planted:1", dataset="planted", rank_graph=graph)
    turn = {"messages": [("user", f"recommend something, {KEY}")], "user_id": request.user_id}
    chat.invoke(turn, run_config("rpp+", user_id=request.user_id, task="chat"), context=context)
    training = build_rank_graph(resources, training=True)
    outputs = run_training(training, users[1:], context.model_copy(update={"split": "train"}), n_steps=N_STEPS)
    try:
        graph.invoke(request.model_copy(update={"domain": KEY}), context=context)
    except InputError:
        done = Done(run_id=run_id, answer=answer, rewards=[output.rewards for output in outputs])
        sys.stdout.write(done.model_dump_json())


if __name__ == "__main__":
    main()
