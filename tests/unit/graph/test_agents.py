"""The four agents as tools: of the graph's nodes, and of any tool-calling agent."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import StructuredTool

from promptailor.evals.types import EvalCase
from promptailor.graph.agents import agent_tools
from promptailor.graph.build import build_rank_graph
from promptailor.graph.context import Context
from promptailor.graph.resources import Resources
from promptailor.graph.state import RankInput, RankOutput
from promptailor.policies.base import StepwisePolicy
from promptailor.policies.types import StateInputs
from promptailor.prompts.patterns import PATTERNS


class AsksOneTool(BaseChatModel):
    """Calls one tool with fixed arguments, then repeats what it was told."""

    tool: str
    arguments: dict[str, Any]

    @property
    def _llm_type(self) -> str:
        return "asks-one-tool"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> AsksOneTool:
        assert self.tool in {tool.name for tool in tools}
        return self

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
        last = messages[-1]
        if isinstance(last, ToolMessage):
            answer = AIMessage(content=last.text)
        else:
            answer = AIMessage(content="", tool_calls=[{"name": self.tool, "args": self.arguments, "id": "1"}])
        return ChatResult(generations=[ChatGeneration(message=answer)])


def _team(resources: Resources) -> StepwisePolicy:
    team = resources.policies["rpp"]
    assert isinstance(team, StepwisePolicy)
    return team


def test_there_is_one_structured_tool_per_pattern(resources: Resources) -> None:
    tools = agent_tools(_team(resources), resources)
    assert list(tools) == list(PATTERNS)
    assert all(isinstance(tool, StructuredTool) and tool.description for tool in tools.values())
    assert {tool.name for tool in tools.values()} == {f"choose_{pattern}" for pattern in PATTERNS}


def test_a_tool_calling_agent_gets_the_action_that_the_graph_node_takes(
    resources: Resources, cases: Sequence[EvalCase]
) -> None:
    team, request = _team(resources), cases[0].request
    tools = agent_tools(team, resources)
    vector = team.observe(StateInputs(history=request.history, step=0, history_length=1))
    context = Context(policy="rpp", n_steps=1, explore=True, seed=4)
    answer = RankOutput.model_validate(build_rank_graph(resources).invoke(RankInput.of(request), context=context))
    for pattern, tool in tools.items():
        arguments = {"observation": vector, "user_id": request.user_id, "step": 0, "seed": 4, "explore": True}
        agent = create_agent(AsksOneTool(tool=tool.name, arguments=arguments), tools=list(tools.values()))
        told = json.loads(agent.invoke({"messages": [HumanMessage("Which sentence?")]})["messages"][-1].text)
        chosen = answer.steps[0].choices[pattern]
        assert (told["action"], told["sentence"]) == (chosen.action, chosen.sentence)
        assert told["probability"] == chosen.probability
