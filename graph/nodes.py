"""The rank graph's nodes: each reads a slice of the state and returns what it changed.

Methods of one frozen class that holds the resources; no node retries, caches or counts, because the model port does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from langchain_core.tools import StructuredTool
from langgraph.types import Overwrite

from promptailor.graph.agents import AgentNode, episode_inputs
from promptailor.graph.context import Context
from promptailor.graph.explain import explain_steps
from promptailor.graph.inline import Update
from promptailor.graph.resources import Resources
from promptailor.graph.review import review_prompt
from promptailor.graph.searching import PromptSearch, fill
from promptailor.graph.state import Answer, RankInput, RankState, ScoreState, StepRecord, TrainInput, WindowState
from promptailor.policies.actions import prompt_of_actions
from promptailor.policies.base import Decision, OneShotPolicy, SearchingPolicy, StepwisePolicy
from promptailor.policies.fusion import fuse
from promptailor.policies.reward import ndcg
from promptailor.policies.types import Observation, StateInputs
from promptailor.prompts.assemble import AssembledPrompt, assemble, permute
from promptailor.prompts.domain import Item, RankedItem, RankRequest
from promptailor.prompts.errors import InputError
from promptailor.prompts.llm import ChatPort, Completion, ModelCall
from promptailor.prompts.parse import ParsedRanking, parse_ranking
from promptailor.prompts.patterns import PatternName, PromptSpec, SentencePattern
from promptailor.prompts.refine import accept_refinement, refine_messages
from promptailor.prompts.windows import windows

FALLBACK_POLICY = "manual"
COPY_STRIDE = 10_000
"""Between the sample indices of a prompt's shuffled copies, so that no other step shows the same order."""


@dataclass(frozen=True)
class RankNodes:
    """Nodes over one set of resources."""

    resources: Resources

    def receive(self, state: RankInput, context: Context) -> Update:
        """Resolve every id, refuse duplicates, and clear what an earlier run on the same thread left."""
        resources = self.resources
        candidates = tuple(resources.item(c, "candidates") for c in state.candidates)
        ids = [item.item_id for item in candidates]
        if len(set(ids)) < len(ids):
            twice = next(i for i in ids if ids.count(i) > 1)
            raise InputError(f"candidates: item {twice!r} occurs twice; list each candidate once")
        request = RankRequest(
            user_id=state.user_id,
            history=tuple(resources.item(h, "history") for h in state.history),
            candidates=candidates,
            domain=state.domain or resources.domain,
            user_profile=state.user_profile,
        )
        resources.catalogue.words(request.domain)
        return {
            "request": request,
            "trace": Overwrite([]),
            "choices": Overwrite({}),
            "window": WindowState(),
            "sentences": {},
            "written": False,
            "profile": None,
            "unread_profile": False,
            "profile_calls": 0,
            "triggers": "",
            "propensities": {},
            "search_calls": 0,
        }

    def receive_training(self, state: TrainInput, context: Context) -> Update:
        """Receive a training request, which may continue an episode or bring the prompt to try."""
        return self.receive(state, context) | {
            "trace": Overwrite(state.trace),
            "rewards": Overwrite([]),
            "sentences": state.sentences,
            "triggers": state.triggers,
        }

    def select_policy(self, state: RankState, context: Context) -> Update:
        """Take the policy the context names, or the manual prompt for a user it cannot serve, with the reason."""
        policy, fallback = self.resources.policy(context.policy), None
        if isinstance(policy, StepwisePolicy) and not state.request.history:
            fallback = f"cold start: {context.policy} needs a history, served by {FALLBACK_POLICY}"
            policy = self.resources.policy(FALLBACK_POLICY)
        if isinstance(policy, SearchingPolicy) and (obstacle := self._search(state, context, policy).obstacle):
            fallback = f"{context.policy} {obstacle}, served by {FALLBACK_POLICY}"
            policy = self.resources.policy(FALLBACK_POLICY)
        name = context.policy if fallback is None else FALLBACK_POLICY
        return {
            "policy": name,
            "fallback": fallback,
            "n_steps": context.n_steps or policy.info.n_steps,
            "refine": context.refine,
            "review": context.review,
            "windows": windows(len(state.request.candidates), self._most_candidates(context)),
        }

    def observe(self, state: RankState, context: Context) -> Update:
        """Compute s_t from the user, and from the last prompt and ranking where there are any."""
        policy = self.resources.policies[state.policy]
        assert isinstance(policy, StepwisePolicy), "the graph routes one-shot policies to `choose`"
        inputs = self._inputs(state)
        return {"observation": Observation(vector=policy.observe(inputs), inputs=inputs), "spec": None}

    def agent(self, pattern: PatternName, tools: dict[str, dict[PatternName, StructuredTool]]) -> AgentNode:
        """Return the node of one pattern's agent, whichever stepwise policy serves."""
        return AgentNode(pattern, {name: by_pattern[pattern] for name, by_pattern in tools.items()})

    def choose(self, state: RankState, context: Context) -> Update:
        """Let a one-shot policy choose the whole prompt, or search it, once per request."""
        policy = self.resources.policies[state.policy]
        if isinstance(policy, SearchingPolicy):
            if state.trace:
                return {"search_calls": 0}
            search = self._search(state, context, policy)
            return _decided(search.run(), search.n_calls)
        assert isinstance(policy, OneShotPolicy), "the graph routes stepwise policies to the agents"
        key = (context.seed, state.request.user_id, len(state.trace))
        return _decided(policy.choose(self._inputs(state), key=key, explore=context.explore))

    async def achoose(self, state: RankState, context: Context) -> Update:
        """Do what `choose` does; a search asks at once what may be asked at once."""
        policy = self.resources.policies[state.policy]
        if not isinstance(policy, SearchingPolicy) or state.trace:
            return self.choose(state, context)
        search = self._search(state, context, policy)
        return _decided(await search.arun(), search.n_calls)

    def assemble(self, state: RankState, context: Context) -> Update:
        """Write the prompt of the next window; every step shows the candidates in another order."""
        spec = state.trial or state.spec or self._spec_of_choices(state)
        return {"prompt": self._prompt(state, context, spec), "refined": {}, "rejected": {}, "refine_calls": 0}

    def refine(self, state: RankState, context: Context) -> Update:
        """RPP+: let the refiner rewrite each chosen sentence; a rewrite that fails a guard is dropped and counted."""
        refiner, calls = self._refine_calls(state, context)
        return self._refined(state, context, {pattern: refiner.complete(call) for pattern, call in calls.items()})

    async def arefine(self, state: RankState, context: Context) -> Update:
        """Do what `refine` does, all sentences at once."""
        refiner, calls = self._refine_calls(state, context)
        answers = await asyncio.gather(*map(refiner.acomplete, calls.values()))
        return self._refined(state, context, dict(zip(calls, answers, strict=True)))

    def review(self, state: RankState, context: Context) -> Update:
        """Let a person read the prompt and put in other sentences, which then count as refined ones."""
        assert state.prompt is not None, "`assemble` runs before `review`"
        edits = review_prompt(state.prompt, len(state.trace))
        if not edits:
            return {}
        refined = {**state.refined, **edits}
        return {"prompt": self._prompt(state, context, state.prompt.spec, refined), "refined": refined}

    def recommend(self, state: RankState, context: Context) -> Update:
        """Call the recommender LLM."""
        complete = self.resources.recommender.complete
        copies = self._copies(state, context)
        return {"answers": tuple(Answer(copy, complete(call)) for copy, call in copies)}

    async def arecommend(self, state: RankState, context: Context) -> Update:
        """Call the recommender LLM on an event loop, for all copies of the prompt at once."""
        complete = self.resources.recommender.acomplete
        copies = self._copies(state, context)
        completions = await asyncio.gather(*(complete(call) for _, call in copies))
        return {"answers": tuple(Answer(copy, done) for (copy, _), done in zip(copies, completions, strict=True))}

    def parse(self, state: RankState, context: Context) -> Update:
        """Read the answers as a permutation of the window's candidates; after the last window, record the step."""
        assert state.prompt is not None, "`assemble` runs before `parse`"
        assert state.answers, "`recommend` runs before `parse`"
        parsed = [parse_ranking(answer.completion.text, answer.prompt.shown) for answer in state.answers]
        ranked = _fuse_copies(state, parsed)
        before, (start, stop) = state.window, state.windows[state.window.done]
        order = self._order(state, context) if len(state.windows) > 1 else ()
        window = WindowState(
            done=before.done + 1,
            order=(*order[:start], *ranked, *order[stop:]),
            parse=sum((p.report for p in parsed), before.parse),
            calls=before.calls
            + sum(answer.completion.calls for answer in state.answers)
            + state.refine_calls
            + (0 if before.done else state.search_calls)
            + (0 if before.done or state.trace else state.profile_calls),
            cached=before.cached and all(answer.completion.cached for answer in state.answers),
        )
        if window.done < len(state.windows):
            return {"window": window}
        record = StepRecord(
            spec=state.prompt.spec,
            choices=state.choices if state.observation else {},
            propensities={} if state.observation else state.propensities,
            inputs=state.observation.inputs if state.observation else None,
            prompt=state.prompt,
            ranking=window.order,
            parse=window.parse,
            cached=window.cached,
            calls=window.calls,
            n_permutations=len(state.answers),
            n_windows=window.done,
            refined=state.refined,
            rejected=state.rejected,
        )
        return {"trace": [record], "window": WindowState()}

    def score(self, state: ScoreState, context: Context) -> Update:
        """Training only: the user's own NDCG@M (RPP, Eq. 6)."""
        ranking = [item.item_id for item in state.trace[-1].ranking]
        return {"rewards": [ndcg(ranking, state.relevant_item_ids, k=len(ranking))]}

    def fuse(self, state: RankState, context: Context) -> Update:
        """Combine the steps' rankings into one; ties fall back to the canonical order."""
        rankings = [[item.item_id for item in record.ranking] for record in state.trace]
        canonical = [item.item_id for item in state.request.candidates]
        weights = self.resources.policies[state.policy].info.fusion_weights
        if context.fusion == "weighted" and not weights:
            raise InputError(f"fusion: policy {state.policy!r} has learned no weights; use last or rrf")
        return {"fused": tuple(fuse(rankings, context.fusion, weights=weights, canonical=canonical))}

    def explain(self, state: RankState, context: Context) -> Update:
        """Say per step and pattern which sentence was chosen, with what probability, and what changed."""
        titles = {item.item_id: item.title for item in state.request.candidates}
        views = explain_steps(state.trace, self.resources.catalogue, state.request.domain)
        items = [RankedItem(item_id=i, title=titles[i], rank=rank) for rank, i in enumerate(state.fused, 1)]
        return {
            "items": items,
            "version": self.resources.policies[state.policy].info.version,
            "model": self.resources.recommender.spec,
            "steps": views,
            "parse": views[-1].parse,
            "llm_calls": sum(record.calls for record in state.trace),
        }

    def _refine_calls(self, state: RankState, context: Context) -> tuple[ChatPort, dict[SentencePattern, ModelCall]]:
        """Return the refiner and what it is asked about each sentence of the prompt."""
        refiner, catalogue = self.resources.refiner, self.resources.catalogue
        if refiner is None:
            raise InputError("refine: no refiner model is loaded; pass --refiner SPEC")
        assert state.prompt is not None, "`assemble` runs before `refine`"
        sample = sample_index(state)
        return refiner, {
            pattern: ModelCall(messages=refine_messages(sentence, catalogue), split=context.split, sample_index=sample)
            for pattern, sentence in state.prompt.sentences.items()
        }

    def _refined(self, state: RankState, context: Context, answers: Mapping[SentencePattern, Completion]) -> Update:
        """Write the prompt again with the rewrites that pass the guards."""
        resources = self.resources
        assert state.prompt is not None, "`assemble` runs before `refine`"
        refined: dict[SentencePattern, str] = {}
        rejected: dict[SentencePattern, str] = {}
        for pattern, answer in answers.items():
            verdict = accept_refinement(
                state.prompt.sentences[pattern],
                answer.text,
                words=resources.catalogue.words(state.request.domain),
                encoder=resources.encoder,
                instruction=resources.catalogue.refine.text,
            )
            if verdict.text is None:
                rejected[pattern] = str(verdict.reason)
            else:
                refined[pattern] = verdict.text
        prompt = self._prompt(state, context, state.prompt.spec, refined)
        calls = sum(answer.calls for answer in answers.values())
        return {"prompt": prompt, "refined": refined, "rejected": rejected, "refine_calls": calls}

    def _prompt(
        self,
        state: RankState,
        context: Context,
        spec: PromptSpec,
        refined: Mapping[SentencePattern, str] | None = None,
        copy: int = 0,
    ) -> AssembledPrompt:
        request, (start, stop) = state.request, state.windows[state.window.done]
        if len(state.windows) > 1:
            request = request.model_copy(update={"candidates": self._order(state, context)[start:stop]})
        return assemble(
            request,
            spec,
            self.resources.catalogue,
            seed=context.seed,
            sample_index=sample_index(state) + copy * COPY_STRIDE,
            refined=fill(state.sentences, self.resources.catalogue.words(request.domain)) | dict(refined or {}),
            triggers=state.triggers,
            summaries=self._shows_summaries(state),
        )

    def _shows_summaries(self, state: RankState) -> bool:
        profiling = self.resources.profiling_of(state.policy)
        return profiling is not None and profiling.summaries

    def _copies(self, state: RankState, context: Context) -> list[tuple[AssembledPrompt, ModelCall]]:
        """Return the prompt and its shuffled copies, each with its call."""
        assert state.prompt is not None, "`assemble` runs before `recommend`"
        n_copies = context.permutations or self.resources.policies[state.policy].info.permutations
        prompts = [state.prompt]
        prompts += [self._prompt(state, context, state.prompt.spec, state.refined, copy) for copy in range(1, n_copies)]
        return [
            (
                prompt,
                ModelCall(
                    messages=prompt.messages,
                    labels=() if state.written else prompt.labels,
                    split=context.split,
                    sample_index=sample_index(state) + copy * COPY_STRIDE,
                ),
            )
            for copy, prompt in enumerate(prompts)
        ]

    def _order(self, state: RankState, context: Context) -> tuple[Item, ...]:
        """Return the candidates as the step's windows so far have left them; a random order before the first."""
        request = state.request
        return state.window.order or permute(request.candidates, context.seed, request.user_id, sample_index(state))

    def _search(self, state: RankState, context: Context, policy: SearchingPolicy) -> PromptSearch:
        return PromptSearch(
            resources=self.resources,
            context=context,
            request=state.request,
            policy=policy,
            max_candidates=self._most_candidates(context),
        )

    def _most_candidates(self, context: Context) -> int | None:
        """Return how many candidates a prompt may show; None where nothing limits them."""
        limits = [limit for limit in (context.window, self.resources.recommender.max_candidates) if limit]
        return min(limits, default=None)

    def _inputs(self, state: RankState) -> StateInputs:
        return episode_inputs(state.request, state.trace, self.resources.catalogue.history_records.initial_length)

    def _spec_of_choices(self, state: RankState) -> PromptSpec:
        """Return the prompt the agents' actions add up to."""
        initial = self.resources.catalogue.history_records.initial_length
        return prompt_of_actions(
            self.resources.catalogue,
            {pattern: choice.action for pattern, choice in state.choices.items()},
            length_before=state.trace[-1].spec.history_length if state.trace else initial,
            available=len(state.request.history),
        )


def _decided(decision: Decision, search_calls: int = 0) -> Update:
    return {
        "spec": decision.spec,
        "sentences": dict(decision.sentences),
        "written": decision.written,
        "triggers": decision.triggers,
        "propensities": decision.probabilities,
        "observation": None,
        "search_calls": search_calls,
    }


def _fuse_copies(state: RankState, parsed: Sequence[ParsedRanking]) -> tuple[Item, ...]:
    """Return the candidates in the order the copies of the prompt agree on; of a single copy its own."""
    rankings = [
        [answer.prompt.shown[place] for place in ranking.order]
        for answer, ranking in zip(state.answers, parsed, strict=True)
    ]
    if len(rankings) == 1:
        return tuple(rankings[0])
    ranked = {item.item_id: item for item in rankings[0]}
    canonical = [item.item_id for item in state.request.candidates if item.item_id in ranked]
    fused = fuse([[item.item_id for item in ranking] for ranking in rankings], "rrf", canonical=canonical)
    return tuple(ranked[item_id] for item_id in fused)


def sample_index(state: RankState) -> int:
    """Return which permutation of the candidates this step shows."""
    return state.first_sample + len(state.trace)


def step_node(resources: Resources, name: str) -> Literal["observe", "choose"]:
    """Name the node that starts a step of a policy."""
    return "observe" if isinstance(resources.policies[name], StepwisePolicy) else "choose"
