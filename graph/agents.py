"""The agents of a stepwise policy as LangChain tools: observation in, sentence, probability and value out.

The graph's agent nodes execute these tools' functions, and a tool-calling agent can be given the same tools.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from langchain_core.tools import StructuredTool
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from promptailor.graph.explain import choice_text
from promptailor.graph.resources import Resources
from promptailor.policies.base import StepwisePolicy
from promptailor.policies.types import AgentChoice
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
