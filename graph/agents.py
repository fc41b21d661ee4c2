"""The agents of a stepwise policy: what they look at, their LangChain tools, and the graph's nodes of these.

Observation in, sentence, probability and value out: the nodes execute the tools' functions, and a tool-calling agent
can be given the same tools.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from langchain_core.tools import StructuredTool
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from promptailor.graph.context import Context
from promptailor.graph.explain import choice_text
from promptailor.graph.inline import Update
from promptailor.graph.resources import Resources
from promptailor.graph.state import RankState, StepRecord
from promptailor.policies.base import StepwisePolicy
from promptailor.policies.types import AgentChoice, StateInputs
from promptailor.prompts.domain import RankRequest
from promptailor.prompts.patterns import PatternName


class AgentInput(BaseModel):
    """What an agent is asked."""

    observation: list[float] = Field(description="The state s_t, as the `observe` node computed it.")
    user_id: str = Field(description="Keys the draw when exploring.")
    step: int = Field(ge=0, description="t, from 0; keys the draw when exploring.")
    seed: int = Field(0, ge=0, description="The run's seed; keys the draw when exploring.")
    explore: bool = Field(False, description="Sample the action instead of taking the most probable one.")


class AgentOutput(TypedDict):
    """What an agent answers."""

    action: int
    sentence_id: str
    sentence: str
    probability: float
    log_prob: float
    value: float


def agent_tools(policy: StepwisePolicy, resources: Resources) -> dict[PatternName, StructuredTool]:
    """Return one tool per agent of a policy, by pattern."""
    return {
        pattern: StructuredTool.from_function(
            func=_answer(policy, pattern, resources),
            name=f"choose_{pattern}",
            description=description,
            args_schema=AgentInput,
        )
        for pattern, description in policy.agents.items()
    }


def to_choice(output: AgentOutput) -> AgentChoice:
    """Return the record of a tool's answer that transitions keep."""
    return AgentChoice(
        action=output["action"],
        sentence_id=output["sentence_id"],
        log_prob=output["log_prob"],
        value=output["value"],
    )


def _answer(policy: StepwisePolicy, pattern: PatternName, resources: Resources) -> Callable[..., AgentOutput]:
    def choose(observation: list[float], user_id: str, step: int, seed: int = 0, explore: bool = False) -> AgentOutput:
        choice = policy.act(pattern, observation, key=(seed, user_id, step), explore=explore)
        return AgentOutput(
            action=choice.action,
            sentence_id=choice.sentence_id,
            sentence=choice_text(resources.catalogue, resources.domain, pattern, choice.action),
            probability=math.exp(choice.log_prob),
            log_prob=choice.log_prob,
            value=choice.value,
        )

    return choose


@dataclass(frozen=True)
class AgentNode:
    """The tool node of one pattern's agent."""

    pattern: PatternName
    tools: dict[str, StructuredTool]
    """The agent's tool of each loaded stepwise policy that personalises the pattern, by policy name."""

    def __call__(self, state: RankState, context: Context) -> Update:
        """Execute the tool's function; `tool.invoke` would spend 0.2 ms a call on validating our own floats."""
        if state.policy not in self.tools:
            return {}
        assert state.observation is not None, "`observe` runs before the agents"
        run = self.tools[state.policy].func
        assert run is not None, "agent tools are synchronous"
        output = run(
            observation=state.observation.vector,
            user_id=state.request.user_id,
            step=len(state.trace),
            seed=context.seed,
            explore=context.explore,
        )
        return {"choices": {self.pattern: to_choice(output)}}


def episode_inputs(request: RankRequest, trace: Sequence[StepRecord], initial_length: int) -> StateInputs:
    """Return what s_t is computed from, t being the number of steps done."""
    profile = request.user_profile.known if request.user_profile else ()
    if not trace:
        return StateInputs(
            history=request.history,
            step=0,
            history_length=initial_length,
            profile=profile,
            user_id=request.user_id,
        )
    last = trace[-1]
    return StateInputs(
        history=request.history,
        profile=profile,
        user_id=request.user_id,
        step=len(trace),
        history_length=last.spec.history_length,
        sentences=tuple(last.prompt.sentences.values()),
        prompt=f"{last.prompt.system}\n{last.prompt.user}",
        ranking=last.ranking,
    )
