"""What a trace tells of a run: how the prompt evolved, one small run per step, and slim payloads of the nodes.

The step runs go to whatever listens to LangChain's callbacks (LangSmith, OpenTelemetry, ...); they hold no user id.
Where nobody listens they cost one look at an empty list. Node payloads are cut down only once `start_recording` was
called, because LangGraph would do that work without a listener, too.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from functools import singledispatch
from typing import Any, Protocol

from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackManager, CallbackManager
from langchain_core.runnables import RunnableConfig
from langgraph.types import Overwrite, TracePolicy
from pydantic import BaseModel

from promptailor.graph.explain import explain_steps
from promptailor.graph.state import Answer, StepRecord, StepView, WindowState
from promptailor.policies.types import AgentChoice, Observation
from promptailor.prompts.assemble import AssembledPrompt
from promptailor.prompts.domain import RankRequest
from promptailor.prompts.explanations import Part, load_wording
from promptailor.prompts.patterns import SENTENCE_PATTERNS, Catalogue

TAG = "promptailor"
"""On every request's run."""
STEP_TAG = "promptailor:step"
"""On every run that tells of a step."""
PREFIX = "promptailor."
"""Of the metadata of such a run."""

_recording = False


def named_config(task: str, policy: str, *tags: str) -> RunnableConfig:
    """Return the name and the tags under which a request is found in a trace."""
    return RunnableConfig(run_name=f"{task} {policy}", tags=[TAG, f"policy:{policy}", *tags])


class StepStory(StepView):
    """One step of the prompt's evolution, as a trace tells it."""

    summary: str
    """The changes in one line."""
    policy: str
    previous_digest: str | None
    """Of the previous step's prompt; None at the first step."""
    changes: list[str]
    """What the step chose otherwise than the one before, in words; at the first step, what it chose."""
    difference: list[str]
    """Lines that the prompt lost (`- `) and gained (`+ `); those of the candidates, which are shuffled, left out."""
    llm_calls: int
    reward: float | None
    """NDCG@M in a training graph; None where nobody knows what was relevant."""

    @property
    def metadata(self) -> dict[str, str | int | float | bool | list[str]]:
        """The story flat, for filters and span attributes; without any text of the prompt."""
        told: dict[str, str | int | float | bool | list[str] | None] = {
            "policy": self.policy,
            "step": self.step,
            "summary": self.summary,
            "changes": self.changes,
            "prompt_digest": self.prompt_digest,
            "previous_digest": self.previous_digest,
            "history_length": self.history_length,
            "ranking": self.ranking,
            "llm_calls": self.llm_calls,
            "cached": self.cached,
            "valid": self.parse.valid,
            "refined": sorted(self.refined),
            "reward": self.reward,
        }
        for pattern, choice in self.choices.items():
            told[f"sentence.{pattern}"] = choice.sentence_id
            told[f"probability.{pattern}"] = choice.probability
        return {PREFIX + name: value for name, value in told.items() if value is not None}


class Stepped(Protocol):
    """The state at the end of a step."""

    policy: str
    request: RankRequest
    trace: list[StepRecord]


Tell = Callable[[Any, Mapping[str, Any], RunnableConfig | None], None]
"""Tells listeners of a node's state and update."""


def tell_of_steps(catalogue: Catalogue) -> Tell:
    """Return what ends a step in a trace: called after `parse`, or after `score` where there are rewards."""

    def tell(state: Stepped, update: Mapping[str, Any], config: RunnableConfig | None) -> None:
        callbacks = config.get("callbacks") if config else None
        if not isinstance(callbacks, BaseCallbackManager) or not callbacks.handlers:
            return
        if trace := [*state.trace, *update.get("trace", ())] if ends_step(update) else []:
            reward: float | None = next(iter(update.get("rewards", ())), None)
            _add_run(callbacks, step_story(trace, catalogue, state.request.domain, policy=state.policy, reward=reward))

    return tell


def ends_step(update: Mapping[str, Any]) -> bool:
    """Whether a node's update ends a step: the parser's after the last window, or the score's."""
    return "trace" in update or "rewards" in update


def step_story(
    trace: Sequence[StepRecord], catalogue: Catalogue, domain: str, *, policy: str, reward: float | None = None
) -> StepStory:
    """Return the story of the last step of a trace."""
    *earlier, view = explain_steps(trace, catalogue, domain)
    previous = earlier[-1] if earlier else None
    changes = _changes(previous, view)
    before = _lines(trace[-2].prompt) if previous else []
    lines = [line for line in difflib.ndiff(before, _lines(trace[-1].prompt)) if line[0] in "-+"]
    return StepStory(
        **{name: getattr(view, name) for name in StepView.model_fields},
        summary="; ".join(changes) or load_wording().unchanged,
        policy=policy,
        previous_digest=previous.prompt_digest if previous else None,
        changes=changes,
        difference=lines,
        llm_calls=trace[-1].calls,
        reward=reward,
    )


def start_recording() -> None:
    """From now on, cut the payloads of nodes down to what a reader of a trace looks for."""
    global _recording
    _recording = True


def node_policy() -> TracePolicy:
    """Return how the runs of nodes are recorded: no user id, no state vectors, no steps told elsewhere."""
    return TracePolicy(process_inputs=_slim_state, process_outputs=_slim_update)


def _add_run(callbacks: BaseCallbackManager, story: StepStory) -> None:
    """Add a run without duration under the current one."""
    manager = CallbackManager(
        handlers=[handler for handler in callbacks.handlers if not isinstance(handler, AsyncCallbackHandler)],
        parent_run_id=callbacks.parent_run_id,
        tags=[*callbacks.inheritable_tags, STEP_TAG, f"policy:{story.policy}", f"step:{story.step + 1}"],
        metadata={**callbacks.inheritable_metadata, **story.metadata},
    )
    told = story.model_dump(mode="json", exclude={"summary"})
    run = manager.on_chain_start(
        None,
        {"policy": story.policy, "step": story.step, "previous_digest": story.previous_digest},
        name=f"{story.policy} step {story.step + 1}",
    )
    run.on_chain_end({"summary": story.summary, **told})


def _changes(previous: StepView | None, view: StepView) -> list[str]:
    """Say what a step chose, or what it chose otherwise than the one before."""
    wording = load_wording()
    before, after = _options(previous) if previous else {}, _options(view)
    changes = []
    for part in dict.fromkeys((*before, *after)):
        (old, old_text), (new, new_text) = before.get(part, ("", "")), after.get(part, ("", ""))
        if old != new or old_text != new_text:
            choice = view.choices.get(part)
            changes.append(wording.step(part, old or None, new or wording.none, choice.probability if choice else None))
    return changes


def _options(view: StepView) -> dict[Part, tuple[str, str]]:
    """Return the name and the text of what each part of a prompt was."""
    wording = load_wording()
    options: dict[Part, tuple[str, str]] = {}
    for pattern in SENTENCE_PATTERNS:
        if choice := view.choices.get(pattern):
            name = wording.refined.format(option=choice.sentence_id) if pattern in view.refined else choice.sentence_id
            options[pattern] = (name, choice.sentence)
    options["history_records"] = (str(view.history_length), "")
    if profile := view.choices.get("user_profile"):
        options["user_profile"] = (profile.sentence_id, "")
    if view.triggers:
        options["triggers"] = (view.triggers, "")
    return options


def _lines(prompt: AssembledPrompt) -> list[str]:
    """Return the lines of a prompt but for the candidates."""
    lines = prompt.user.split("\n")
    if "<candidates>" in lines:
        start, end = lines.index("<candidates>"), lines.index("</candidates>")
        lines = lines[: start + 1] + lines[end:]
    return [*prompt.system.split("\n"), *lines]


def _slim_state(state: Any) -> Any:
    if not _recording:
        return state
    trace = getattr(state, "trace", None)
    window = getattr(state, "window", None)
    return {
        "policy": getattr(state, "policy", ""),
        "step": len(trace) if trace is not None else 0,
        **({"window": window.done} if isinstance(window, WindowState) and window.done else {}),
    }


def _slim_update(update: Any) -> Any:
    return _slim(update) if _recording else update


@singledispatch
def _slim(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


@_slim.register
def _(value: dict) -> Any:  # type: ignore[type-arg]  # singledispatch reads the annotation
    return {name: _slim(part) for name, part in value.items()}


@_slim.register
def _(value: list) -> Any:  # type: ignore[type-arg]
    return [_slim(part) for part in value]


@_slim.register
def _(value: tuple) -> Any:  # type: ignore[type-arg]
    return [_slim(part) for part in value]


@_slim.register
def _(value: Overwrite) -> Any:
    return _slim(value.value)


@_slim.register
def _(value: RankRequest) -> Any:
    return {"domain": value.domain, "n_history": len(value.history), "n_candidates": len(value.candidates)}


@_slim.register
def _(value: Observation) -> Any:
    return {"dimension": len(value.vector), "step": value.inputs.step, "history_length": value.inputs.history_length}


@_slim.register
def _(value: AgentChoice) -> Any:
    return {**asdict(value), "probability": value.probability}


@_slim.register
def _(value: AssembledPrompt) -> Any:
    return {"digest": value.digest, "system": value.system, "user": value.user}


@_slim.register
def _(value: Answer) -> Any:
    return {"prompt_digest": value.prompt.digest, **asdict(value.completion)}


@_slim.register
def _(value: StepRecord) -> Any:
    return {"prompt_digest": value.prompt.digest, "ranking": [item.item_id for item in value.ranking]}


@_slim.register
def _(value: WindowState) -> Any:
    return {"done": value.done}
