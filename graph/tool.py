"""The graphs as LangChain tools: ranking for agents that have candidates, recommending for those that have none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import StructuredTool, ToolException
from pydantic import BaseModel, Field

from promptailor.graph.build import RankGraph, recursion_limit
from promptailor.graph.chat.build import ChatGraph
from promptailor.graph.chat.state import Visitor
from promptailor.graph.context import MOST_STEPS, Context
from promptailor.graph.state import RankInput, RankOutput
from promptailor.prompts.assemble import clean_title
from promptailor.prompts.chat import MAX_MESSAGE_LENGTH
from promptailor.prompts.domain import MAX_TASTE_LENGTH, Item, UserProfile
from promptailor.prompts.errors import PromptailorError

NAME = "rank_items"
DESCRIPTION = (
    "Put items in the order in which one user will like them, best first. Give what the user chose before, oldest "
    "first, and the candidates; both as item_id and title."
)

RECOMMEND_NAME = "recommend_items"
RECOMMEND_DESCRIPTION = (
    "Recommend items out of the catalogue: say in plain words what is wanted and what is not (kinds, years, titles to "
    "resemble), and who it is for. Answers with a list, best first, and a reason for each item."
)


class RankToolInput(BaseModel):
    """What an agent asks."""

    candidates: list[Item] = Field(min_length=2, description="What can be recommended: item_id and title of each.")
    history: list[Item] = Field(
        default_factory=list, description="What the user chose before, oldest first; empty where nothing is known."
    )
    user_id: str = Field("agent", min_length=1, description="Whose order it is.")
    taste: str | None = Field(None, max_length=MAX_TASTE_LENGTH, description="What the user says of her own taste.")
    domain: str | None = Field(None, description="movies, music, games, beauty or neutral.")


class RecommendToolInput(Visitor):
    """What an agent that has no candidates asks."""

    wish: str = Field(
        min_length=1,
        max_length=MAX_MESSAGE_LENGTH,
        description='What is wanted: "a funny film from the 80s, no crime".',
    )


def rank_tool(
    graph: RankGraph, context: Context | None = None, *, name: str = NAME, description: str = DESCRIPTION
) -> StructuredTool:
    """Wrap a rank graph for `create_agent(tools=[...])`.

    The tool's message is the ranking, one line per item; its artifact is the whole `RankOutput`. What is wrong with a
    request comes back as the tool's answer, so that the agent can ask again.

    Args:
        graph: a rank graph for serving.
        context: names the policy and the other settings; the defaults where empty.
        name: what the agent calls it by.
        description: what the agent is told of it.
    """
    settings = context or Context()

    def request(arguments: dict[str, Any]) -> tuple[RankInput, RunnableConfig]:
        asked = RankToolInput.model_validate(arguments)
        given = RankInput(
            user_id=asked.user_id,
            history=list(asked.history),
            candidates=list(asked.candidates),
            domain=asked.domain,
            user_profile=UserProfile(taste=asked.taste) if asked.taste else None,
        )
        return given, RunnableConfig(recursion_limit=recursion_limit(MOST_STEPS, len(asked.candidates)))

    def rank(**arguments: Any) -> tuple[str, RankOutput]:
        given, config = request(arguments)
        try:
            return _told(graph.invoke(given, config, context=settings))
        except PromptailorError as error:
            raise ToolException(str(error)) from error

    async def arank(**arguments: Any) -> tuple[str, RankOutput]:
        given, config = request(arguments)
        try:
            return _told(await graph.ainvoke(given, config, context=settings))
        except PromptailorError as error:
            raise ToolException(str(error)) from error

    return StructuredTool.from_function(
        func=rank,
        coroutine=arank,
        name=name,
        description=description,
        args_schema=RankToolInput,
        response_format="content_and_artifact",
        handle_tool_error=True,
    )


def recommend_tool(
    graph: ChatGraph,
    context: Context | None = None,
    *,
    name: str = RECOMMEND_NAME,
    description: str = RECOMMEND_DESCRIPTION,
) -> StructuredTool:
    """Wrap a chat graph for `create_agent(tools=[...])`; every call is a conversation of one turn.

    The tool's message is the reply in words; its artifact is the `RankOutput`, None where nothing was ranked.

    Args:
        graph: a chat graph, compiled without a checkpointer.
        context: names the policy and the other settings; the defaults where empty.
        name: what the agent calls it by.
        description: what the agent is told of it.
    """
    settings = context or Context()

    def recommend(**arguments: Any) -> tuple[str, RankOutput | None]:
        try:
            return _recommended(graph.invoke(_turn(arguments), context=settings))
        except PromptailorError as error:
            raise ToolException(str(error)) from error

    async def arecommend(**arguments: Any) -> tuple[str, RankOutput | None]:
        try:
            return _recommended(await graph.ainvoke(_turn(arguments), context=settings))
        except PromptailorError as error:
            raise ToolException(str(error)) from error

    return StructuredTool.from_function(
        func=recommend,
        coroutine=arecommend,
        name=name,
        description=description,
        args_schema=RecommendToolInput,
        response_format="content_and_artifact",
        handle_tool_error=True,
    )


def _turn(arguments: dict[str, Any]) -> dict[str, Any]:
    asked = RecommendToolInput.model_validate(arguments)
    return {"messages": [HumanMessage(asked.wish)], "user_id": asked.user_id, "taste": asked.taste}


def _recommended(result: dict[str, Any]) -> tuple[str, RankOutput | None]:
    ranking = result.get("ranking")
    return result["messages"][-1].text, RankOutput.model_validate(ranking) if ranking else None


def _told(result: dict[str, Any]) -> tuple[str, RankOutput]:
    output = RankOutput.model_validate(result)
    return _lines([(item.rank, item.item_id, item.title) for item in output.items]), output


def _lines(items: Sequence[tuple[int, str, str]]) -> str:
    """Return one line per item; titles are cleaned, because the agent's model reads them."""
    return "\n".join(f"{rank}. {clean_title(title)} (item_id {clean_title(item_id)})" for rank, item_id, title in items)
