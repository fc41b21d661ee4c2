"""Why this? What each pattern of a served prompt did to each item's place, from counterfactual prompts.

The last prompt of a request is asked again with one pattern's choice replaced by the manual prompt's (or left out,
where the manual prompt says the same), everything else alike: seed, sample indices, windows, permutations, the other
sentences as they were shown. So only the pattern differs, and an item's place with and without it says what it did.
Every call goes through the model's port: the response store answers what was asked before, and the budget holds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

from langchain_core.runnables import RunnableConfig, RunnableLambda
from pydantic import BaseModel, Field, computed_field

from promptailor.graph.build import build_rank_graph, recursion_limit
from promptailor.graph.context import Context
from promptailor.graph.nodes import RankNodes
from promptailor.graph.resources import Resources
from promptailor.graph.rollout import run_on_loop
from promptailor.graph.state import RankInput, RankState, WindowState
from promptailor.prompts.assemble import clean_title, show_profile
from promptailor.prompts.domain import RankRequest
from promptailor.prompts.errors import BudgetExceededError, ModelCallError
from promptailor.prompts.explanations import Part, load_wording
from promptailor.prompts.patterns import SENTENCE_PATTERNS, Catalogue, SentencePattern

MAX_STEPS = 50
"""Bounds the graph's recursion; as in `Context.n_steps`."""


class Option(BaseModel):
    """What a part of the prompt was, or could have been."""

    name: str
    """Short: a sentence's id, a number of interactions, the fields of a profile."""
    text: str
    """As the prompt shows it; empty where it shows nothing."""


class Move(BaseModel):
    """What a part of the prompt did to one item's place."""

    item_id: str
    rank: int = Field(ge=1)
    """Place as served."""
    rank_without: int = Field(ge=1)
    """Place where the part was replaced by its reference."""
    text: str
    """Both in a sentence."""

    @computed_field  # type: ignore[prop-decorator]  # pydantic's own way
    @property
    def moved(self) -> int:
        """Places that the choice moved the item up; below 0: down."""
        return self.rank_without - self.rank


class PartEffect(BaseModel):
    """What one part of the prompt did: a pattern, the trigger words, or `prompt`, all of them at once."""

    part: Part
    choice: Option
    reference: Option
    """The manual prompt's, or nothing where the manual prompt says the same."""
    change: str
    """Choice and reference in words."""
    moves: list[Move]
    """One per item, in the order served."""
    valid: bool
    """Whether the counterfactual answer could be read without repair."""
    calls: int
    """Requests the counterfactual took, now or when it was paid for."""


class ItemAttribution(BaseModel):
    """Why one item stands where it stands."""

    item_id: str
    title: str
    rank: int = Field(ge=1)
    reasons: list[str]
    """What moved it, the strongest first; empty where nothing did."""


class Attribution(BaseModel):
    """What each part of a served prompt did to each item's place."""

    user_id: str | int
    policy: str
    """The policy that served, after fallback."""
    version: str
    model: str
    step: int
    """The step whose prompt was varied: the last, from 0."""
    prompt_digest: str
    items: list[ItemAttribution]
    """In the order served."""
    effects: list[PartEffect]
    """The strongest first."""
    missing: dict[str, str]
    """Parts that could not be asked about, and why: the budget is spent, or the model failed."""
    served_calls: int
    """Requests that serving took, now or when they were paid for."""
    llm_calls: int
    """Requests that the counterfactuals took, now or when they were paid for."""
    new_calls: int
    """Requests of the counterfactuals that were made now; asking again makes none."""


async def aattribute(
    resources: Resources, request: RankInput, context: Context, *, config: RunnableConfig | None = None
) -> Attribution:
    """Serve a request, from the response store where it was served before, and vary its last prompt part by part.

    Args:
        resources: what the request is served with.
        request: the request.
        context: the settings it was served with; another seed or policy is another answer.
        config: of the run that all of it is in a trace.

    Raises:
        PromptailorError: the request itself cannot be served.
    """

    async def explain(request: RankInput) -> Attribution:
        return await _attribute(resources, request, context)

    return await RunnableLambda(explain, name="explain").ainvoke(request, config)  # one run of a trace holds all


def attribute(
    resources: Resources, request: RankInput, context: Context, *, config: RunnableConfig | None = None
) -> Attribution:
    """Do what `aattribute` does, and wait for it."""
    return run_on_loop(aattribute(resources, request, context, config=config))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Variant:
    """One counterfactual prompt."""

    part: Part
    choice: Option
    reference: Option
    state: RankState
    """Ready for `assemble`: the step is about to be done again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    fused: tuple[str, ...]
    valid: bool
    calls: int
    new_calls: int


async def _attribute(resources: Resources, request: RankInput, context: Context) -> Attribution:
    context = context.model_copy(update={"review": False})  # nobody is there to answer
    served = await _serve(resources, request, context)
    variants = list(_variants(served, resources))
    answers = await asyncio.gather(
        *(_answer(resources, context, variant.state) for variant in variants), return_exceptions=True
    )
    effects: list[PartEffect] = []
    missing: dict[str, str] = {}
    new_calls = 0
    for variant, answer in zip(variants, answers, strict=True):
        if isinstance(answer, BudgetExceededError | ModelCallError):
            missing[variant.part] = str(answer)
            continue
        if isinstance(answer, BaseException):
            raise answer
        effects.append(_effect(variant, served.fused, answer))
        new_calls += answer.new_calls
    effects.sort(key=lambda effect: -sum(abs(move.moved) for move in effect.moves))
    titles = {item.item_id: item.title for item in served.request.candidates}
    return Attribution(
        user_id=request.user_id,
        policy=served.policy,
        version=resources.policies[served.policy].info.version,
        model=resources.recommender.spec,
        step=len(served.trace) - 1,
        prompt_digest=served.trace[-1].prompt.digest,
        items=[
            ItemAttribution(item_id=item_id, title=titles[item_id], rank=place + 1, reasons=_reasons(effects, place))
            for place, item_id in enumerate(served.fused)
        ],
        effects=effects,
        missing=missing,
        served_calls=sum(record.calls for record in served.trace),
        llm_calls=sum(effect.calls for effect in effects),
        new_calls=new_calls,
    )


async def _serve(resources: Resources, request: RankInput, context: Context) -> RankState:
    """Run the rank graph, and return the whole state it ends in."""
    limit = RunnableConfig(recursion_limit=recursion_limit(MAX_STEPS, len(request.candidates)))
    channels = [field.name for field in fields(RankState)]
    graph = build_rank_graph(resources)
    return RankState(**await graph.ainvoke(request, limit, context=context, output_keys=channels))


async def _answer(resources: Resources, context: Context, state: RankState) -> _Answer:
    """Do the last step again with the variant's prompt, window by window, and fuse it with the steps before."""
    nodes, calls, new_calls = RankNodes(resources), 0, 0
    n_steps = len(state.trace) + 1
    while len(state.trace) < n_steps:
        state = replace(state, **nodes.assemble(state, context))
        state = replace(state, **await nodes.arecommend(state, context))
        calls += sum(answer.completion.calls for answer in state.answers)
        new_calls += sum(answer.completion.calls for answer in state.answers if not answer.completion.cached)
        update = nodes.parse(state, context)
        state = replace(state, **{**update, "trace": [*state.trace, *update.get("trace", ())]})
    return _Answer(
        fused=nodes.fuse(state, context)["fused"],
        valid=state.trace[-1].parse.valid,
        calls=calls,
        new_calls=new_calls,
    )


def _variants(served: RankState, resources: Resources) -> Iterator[_Variant]:
    """Yield the counterfactuals of the last prompt: one per part that can be another, and all of them at once."""
    catalogue, wording, last = resources.catalogue, load_wording(), served.trace[-1]
    manual = catalogue.manual_prompt
    nothing = Option(name=wording.none, text="")
    again = replace(
        served,
        trial=last.spec,
        sentences=_templates(last.prompt.sentences),
        trace=served.trace[:-1],
        window=WindowState(),
        search_calls=0,
    )
    n_tailored = 0
    for pattern in SENTENCE_PATTERNS:
        choice = _sentence(served, catalogue, pattern) or nothing
        index = getattr(manual, pattern)
        sentence = catalogue.sentences(pattern)[index]
        reference = Option(name=sentence.id, text=catalogue.fill(sentence, served.request.domain))
        tailored = choice.text != reference.text
        n_tailored += tailored
        others = {name: text for name, text in again.sentences.items() if name != pattern}
        spec = last.spec.model_copy(update={pattern: index if tailored else None})
        yield _Variant(
            part=pattern,
            choice=choice,
            reference=reference if tailored else nothing,
            state=replace(again, trial=spec, sentences=others),
        )
    if length := last.prompt.history_length:
        usual = min(manual.history_length, len(served.request.history))
        n_tailored += usual != length
        without = usual if usual != length else 0
        yield _Variant(
            part="history_records",
            choice=Option(name=str(length), text=_history(served, length)),
            reference=Option(name=str(without), text=_history(served, without)),
            state=replace(again, trial=last.spec.model_copy(update={"history_length": without})),
        )
    profile = show_profile(served.request.user_profile, served.request.domain, last.spec, catalogue)
    if profile:
        n_tailored += 1
        yield _Variant(
            part="user_profile",
            choice=Option(name=catalogue.user_profile.ids[last.spec.user_profile], text=profile),
            reference=nothing,
            state=replace(again, trial=last.spec.model_copy(update={"user_profile": manual.user_profile})),
        )
    if last.prompt.triggers:
        n_tailored += 1
        yield _Variant(
            part="triggers",
            choice=Option(name=last.prompt.triggers, text=last.prompt.triggers),
            reference=nothing,
            state=replace(again, triggers=""),
        )
    profiling = resources.profiling_of(served.policy)
    summarised = profiling is not None and profiling.summaries and any(i.summary for i in served.request.candidates)
    plain = _without_summaries(served.request) if summarised else served.request
    if summarised:
        n_tailored += 1
        summaries = "\n".join(item.summary for item in served.request.candidates if item.summary)
        yield _Variant(
            part="summaries",
            choice=Option(name="", text=summaries),
            reference=nothing,
            state=replace(again, request=plain),
        )
    if n_tailored > 1:
        yield _Variant(
            part="prompt",
            choice=Option(name="", text="\n".join(message.content for message in last.prompt.messages)),
            reference=Option(name=wording.manual, text=""),
            state=replace(again, trial=manual, sentences={}, triggers="", written=False, request=plain),
        )


def _sentence(served: RankState, catalogue: Catalogue, pattern: SentencePattern) -> Option | None:
    """Return the sentence that the last prompt shows of a pattern; None where it shows none."""
    wording, last = load_wording(), served.trace[-1]
    index: int | None = getattr(last.spec, pattern)
    if index is None:
        return None
    name = catalogue.sentences(pattern)[index].id
    if pattern in served.sentences:
        name = wording.edited.format(option=name)
    if pattern in last.refined:
        name = wording.refined.format(option=name)
    return Option(name=name, text=last.prompt.sentences[pattern])


def _history(served: RankState, length: int) -> str:
    """Return the titles that a prompt with so much history shows."""
    recent = served.request.history[-length:] if length else ()
    return "\n".join(clean_title(item.title) for item in recent)


def _without_summaries(request: RankRequest) -> RankRequest:
    """Return the request with titles alone."""
    bare = tuple(item.model_copy(update={"summary": None}) for item in request.candidates)
    return request.model_copy(update={"candidates": bare})


def _templates(sentences: Mapping[SentencePattern, str]) -> dict[SentencePattern, str]:
    """Return sentences as they were shown, as templates that are filled to the same text."""
    return {pattern: text.replace("{", "{{").replace("}", "}}") for pattern, text in sentences.items()}


def _effect(variant: _Variant, served: Sequence[str], answer: _Answer) -> PartEffect:
    wording = load_wording()
    change = wording.change_of(variant.part, variant.choice.name, variant.reference.name)
    without = {item_id: rank for rank, item_id in enumerate(answer.fused, 1)}
    return PartEffect(
        part=variant.part,
        choice=variant.choice,
        reference=variant.reference,
        change=change,
        moves=[
            Move(
                item_id=item_id,
                rank=rank,
                rank_without=without[item_id],
                text=wording.move(change, without[item_id], rank),
            )
            for rank, item_id in enumerate(served, 1)
        ],
        valid=answer.valid,
        calls=answer.calls,
    )


def _reasons(effects: Sequence[PartEffect], place: int) -> list[str]:
    """Return what moved the item at a place, the strongest first."""
    moves = [effect.moves[place] for effect in effects]
    return [move.text for move in sorted(moves, key=lambda move: -abs(move.moved)) if move.moved]
