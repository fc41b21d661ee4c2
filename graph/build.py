"""The wiring of the rank graph; nothing else is wired anywhere."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph

from promptailor.graph.agents import agent_tools
from promptailor.graph.context import Context
from promptailor.graph.inline import Edge, Node, Update
from promptailor.graph.nodes import RankNodes, step_node
from promptailor.graph.profiles import ProfileNodes
from promptailor.graph.resources import Resources
from promptailor.graph.state import RankInput, RankOutput, RankState, ScoreState, TrainInput, TrainOutput
from promptailor.graph.tracing import Tell, node_policy, tell_of_steps
from promptailor.policies.base import StepwisePolicy
from promptailor.prompts.patterns import PATTERNS, PatternName

RankGraph = CompiledStateGraph[Any, Context, Any, Any]

AGENT_NODES: dict[PatternName, str] = {
    "role_playing": "role_agent",
    "history_records": "history_agent",
    "reasoning_guidance": "reasoning_agent",
    "output_format": "format_agent",
    "user_profile": "profile_agent",
}

SUPERSTEPS_PER_STEP = 9
"""observe, agents, assemble, refine, review, recommend, parse, score, one to spare: bounds the graph's recursion."""
SUPERSTEPS_PER_WINDOW = 5
"""assemble, refine, review, recommend, parse."""


def build_rank_graph(
    resources: Resources, *, training: bool = False, checkpointer: BaseCheckpointSaver[str] | None = None
) -> RankGraph:
    """Compile the rank graph over a set of resources.

    Args:
        resources: models, policies and catalogues.
        training: add the `score` node and accept `TrainInput`; a graph for serving has no place for a label.
        checkpointer: for threads that persist; leave it out for a graph that `langgraph dev` serves.
    """
    nodes = RankNodes(resources)
    tools = {
        name: agent_tools(policy, resources)
        for name, policy in resources.policies.items()
        if isinstance(policy, StepwisePolicy)
    }
    patterns = _patterns_with_agents(resources)

    builder = StateGraph(
        RankState,
        context_schema=Context,
        input_schema=TrainInput if training else RankInput,
        output_schema=TrainOutput if training else RankOutput,
    )

    def add(
        name: str,
        run: Callable[[Any, Context], Update],
        arun: Callable[[Any, Context], Awaitable[Update]] | None = None,
        reads: type[Any] = RankState,
        tell: Tell | None = None,
    ) -> None:
        builder.add_node(name, Node(name, run, arun, tell), input_schema=reads, trace_policy=node_policy())

    tell = tell_of_steps(resources.catalogue)
    if training:
        add("receive", nodes.receive_training, reads=TrainInput)
        add("score", nodes.score, reads=ScoreState, tell=tell)
    else:
        add("receive", nodes.receive, reads=RankInput)
        add("review", nodes.review)
        add("fuse", nodes.fuse)
        add("explain", nodes.explain)
    add("select_policy", nodes.select_policy)
    add("observe", nodes.observe)
    for pattern in patterns:
        served_by = {name: by_pattern for name, by_pattern in tools.items() if pattern in by_pattern}
        add(AGENT_NODES[pattern], nodes.agent(pattern, served_by))
    add("choose", nodes.choose, nodes.achoose)
    add("assemble", nodes.assemble)
    add("refine", nodes.refine, nodes.arefine)
    add("recommend", nodes.recommend, nodes.arecommend)
    add("parse", nodes.parse, tell=None if training else tell)

    start_step = _start_step(resources)
    builder.add_edge(START, "receive")
    builder.add_edge("receive", "select_policy")
    starts = ["observe", "choose", "assemble"] if training else ["observe", "choose"]
    if any(resources.profiling_of(name) for name in resources.policies):
        profiles = ProfileNodes(resources)
        add("summarise", profiles.summarise, profiles.asummarise)
        add("write_profile", profiles.write_profile, profiles.awrite_profile)
        builder.add_conditional_edges(
            "select_policy", Edge(_describe_or(start_step, resources)), ["summarise", *starts]
        )
        builder.add_edge("summarise", "write_profile")
        builder.add_conditional_edges("write_profile", Edge(start_step), starts)
    else:
        builder.add_conditional_edges("select_policy", Edge(start_step), starts)
    for agent in (AGENT_NODES[pattern] for pattern in patterns):
        builder.add_edge("observe", agent)
        builder.add_edge(agent, "assemble")
    builder.add_edge("choose", "assemble")
    builder.add_edge("recommend", "parse")
    if training:
        builder.add_conditional_edges("assemble", Edge(_refine_or_recommend), ["refine", "recommend"])
        builder.add_edge("refine", "recommend")
        builder.add_conditional_edges("parse", _next_window_or(lambda _: "score"), ["assemble", "score"])
        builder.add_conditional_edges("score", Edge(_loop(start_step, END)), [*starts, END])
    else:
        builder.add_conditional_edges("assemble", Edge(_refine_or_send), ["refine", "review", "recommend"])
        builder.add_conditional_edges("refine", Edge(_review_or_recommend), ["review", "recommend"])
        builder.add_edge("review", "recommend")
        goals = ["assemble", *starts, "fuse"]
        builder.add_conditional_edges("parse", _next_window_or(_loop(start_step, "fuse")), goals)
        builder.add_edge("fuse", "explain")
        builder.add_edge("explain", END)
    return builder.compile(checkpointer=checkpointer, name="rank")


def recursion_limit(n_steps: int, n_candidates: int) -> int:
    """Return the superstep bound of a run; LangGraph's own default would let a broken loop spin.

    Args:
        n_steps: of the policy.
        n_candidates: of the request; the smallest window and its stride of one give about as many windows.
    """
    return SUPERSTEPS_PER_STEP + n_steps * (SUPERSTEPS_PER_STEP + SUPERSTEPS_PER_WINDOW * n_candidates)


def _patterns_with_agents(resources: Resources) -> tuple[PatternName, ...]:
    """The paper's four patterns, so that the drawn graph always shows the team, and the fifth where a policy has it."""
    stepwise = [p for p in resources.policies.values() if isinstance(p, StepwisePolicy)]
    profile: tuple[PatternName, ...] = ("user_profile",) if any("user_profile" in p.agents for p in stepwise) else ()
    return (*PATTERNS, *profile)


def _start_step(resources: Resources) -> Callable[[RankState], str]:
    def start_step(state: RankState) -> str:
        return "assemble" if state.trial else step_node(resources, state.policy)

    return start_step


def _describe_or(start_step: Callable[[RankState], str], resources: Resources) -> Callable[[RankState], str]:
    """Have items and user described first, where the policy that serves asks for it."""

    def choose(state: RankState) -> str:
        return "summarise" if resources.profiling_of(state.policy) else start_step(state)

    return choose


def _refine_or_recommend(state: RankState) -> str:
    return "refine" if state.refine else "recommend"


def _review_or_recommend(state: RankState) -> str:
    return "review" if state.review else "recommend"


def _refine_or_send(state: RankState) -> str:
    return "refine" if state.refine else _review_or_recommend(state)


def _next_window_or(then: Callable[[RankState], str]) -> Edge:
    """Rank the step's next window of candidates; after the last one, go on."""

    def choose(state: RankState) -> str:
        return "assemble" if state.window.done else then(state)

    return Edge(choose)


def _loop(start_step: Callable[[RankState], str], done: str) -> Callable[[RankState], str]:
    """Loop until the policy's number of steps; a fixed number needs no label."""

    def next_step(state: RankState) -> str:
        return start_step(state) if len(state.trace) < state.n_steps else done

    return next_step
