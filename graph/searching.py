"""A search for one request's prompt: the questions of a searching policy become calls, and the answers its rewards.

The user's own earlier choices are all that a prompt is scored on (`policies/pseudo_case.py`): the request carries no
label, and none is asked for. An identical prompt is asked for once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from promptailor.graph.context import Context
from promptailor.graph.resources import Resources
from promptailor.policies.base import Decision, Questions, Replies, Search, SearchingPolicy
from promptailor.policies.pseudo_case import MIN_HISTORY, PseudoCase, pseudo_cases
from promptailor.policies.reward import ndcg
from promptailor.prompts.assemble import AssembledPrompt, assemble
from promptailor.prompts.domain import RankRequest
from promptailor.prompts.llm import ChatPort, Completion, ModelCall
from promptailor.prompts.parse import parse_ranking
from promptailor.prompts.patterns import SentencePattern
from promptailor.prompts.phrases import refill
from promptailor.prompts.refine import accept_refinement, refine_messages


@dataclass(kw_only=True)
class PromptSearch:
    """One request's search; run once."""

    resources: Resources
    context: Context
    request: RankRequest
    policy: SearchingPolicy
    max_candidates: int | None
    """Most candidates that one prompt may show; a pseudo-case has as many as the request, as far as they fit."""
    _answers: dict[ModelCall, Completion] = field(default_factory=dict)

    @property
    def obstacle(self) -> str | None:
        """Why there is nothing to score prompts on."""
        if len(self.request.history) < MIN_HISTORY:
            return f"needs {MIN_HISTORY} interactions"
        if not self._cases:
            return "needs a catalogue to draw negatives from; name a data set"
        return None

    @property
    def n_calls(self) -> int:
        """Requests that the answers took."""
        return sum(answer.calls for answer in self._answers.values())

    def run(self) -> Decision:
        """Search, one call after the other."""
        search = self._begin()
        questions = next(search)
        while True:
            for call, port in self._calls(questions).items():
                self._answers[call] = port.complete(call)
            try:
                questions = search.send(self._replies(questions))
            except StopIteration as end:
                found: Decision = end.value
                return found

    async def arun(self) -> Decision:
        """Do what `run` does, asking at once what may be asked at once."""
        search = self._begin()
        questions = next(search)
        while True:
            calls = self._calls(questions)
            answers = await asyncio.gather(*(port.acomplete(call) for call, port in calls.items()))
            self._answers.update(zip(calls, answers, strict=True))
            try:
                questions = search.send(self._replies(questions))
            except StopIteration as end:
                found: Decision = end.value
                return found

    @cached_property
    def _cases(self) -> tuple[PseudoCase, ...]:
        n_shown = len(self.request.candidates)
        return pseudo_cases(
            self.request,
            self.resources.items,
            self.resources.item_ids,
            n_cases=self.policy.cases,
            n_candidates=min(n_shown, self.max_candidates or n_shown),
            seed=self.context.seed,
        )

    def _begin(self) -> Search:
        return self.policy.search(
            key=(self.context.seed, self.request.user_id),
            n_history=len(self.request.history) - 1,
            rewrites=self.policy.rewrites and self.resources.refiner is not None,
        )

    def _calls(self, questions: Questions) -> dict[ModelCall, ChatPort]:
        """Return the calls that the questions take and that were not made yet, each with whom to ask."""
        recommender, refiner = self.resources.recommender, self.resources.refiner
        calls = {
            self._ranking(prompt, case): recommender for a in questions.attempts for prompt, case in self._prompts(a)
        }
        if questions.rewrites:
            assert refiner is not None, "a search asks for rewrites where it was told that there is a refiner"
            calls |= {self._rewriting(template): refiner for template in questions.rewrites}
        return {call: port for call, port in calls.items() if call not in self._answers}

    def _replies(self, questions: Questions) -> Replies:
        return Replies(
            rewards=tuple(self._reward(attempt) for attempt in questions.attempts),
            rewrites=tuple(self._rewrite(template) for template in questions.rewrites),
        )

    def _reward(self, attempt: Decision) -> float:
        """Return the mean NDCG of the hidden choices."""
        rewards = []
        for prompt, case in self._prompts(attempt):
            parsed = parse_ranking(self._answers[self._ranking(prompt, case)].text, prompt.shown)
            ranking = [prompt.shown[place].item_id for place in parsed.order]
            rewards.append(ndcg(ranking, {case.relevant_item_id}, k=len(ranking)))
        return sum(rewards) / len(rewards)

    def _rewrite(self, template: str) -> str | None:
        """Return a rewrite as a template, if it passes the guards."""
        words = self._words
        verdict = accept_refinement(
            template.format_map(words),
            self._answers[self._rewriting(template)].text,
            words=words,
            encoder=self.resources.encoder,
            instruction=self.resources.catalogue.refine.text,
        )
        return None if verdict.text is None else refill(verdict.text, template, words)

    def _prompts(self, attempt: Decision) -> list[tuple[AssembledPrompt, PseudoCase]]:
        sentences = fill(attempt.sentences, self._words)
        return [
            (
                assemble(
                    case.request,
                    attempt.spec,
                    self.resources.catalogue,
                    seed=self.context.seed,
                    sample_index=case.number,
                    refined=sentences,
                    triggers=attempt.triggers,
                ),
                case,
            )
            for case in self._cases
        ]

    def _ranking(self, prompt: AssembledPrompt, case: PseudoCase) -> ModelCall:
        return ModelCall(
            messages=prompt.messages, labels=prompt.labels, split=self.context.split, sample_index=case.number
        )

    def _rewriting(self, template: str) -> ModelCall:
        messages = refine_messages(template.format_map(self._words), self.resources.catalogue)
        return ModelCall(messages=messages, split=self.context.split)

    @property
    def _words(self) -> Mapping[str, str]:
        return self.resources.catalogue.words(self.request.domain)


def fill(sentences: Mapping[SentencePattern, str], words: Mapping[str, str]) -> dict[SentencePattern, str]:
    """Fill edited sentences with a domain's words."""
    return {pattern: text.format_map(words) for pattern, text in sentences.items()}
