"""How PAP-REC's triggers are trained and served: a white box, encoded users, a search that can be killed anywhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from pydantic import ValidationError

from promptailor.app.backends.budget import Spending
from promptailor.app.job import Job, PapRecConfig, TrainSummary
from promptailor.app.projection import announce
from promptailor.app.wiring import Workspace
from promptailor.evals.protocol import HoldOut
from promptailor.evals.records import write_lines, write_text
from promptailor.evals.types import EvalCase
from promptailor.graph.rollout import Progress
from promptailor.policies.base import PolicyInfo
from promptailor.policies.manual import Stopped
from promptailor.policies.pap_rec.policy import NAME, TriggerPolicy, Words
from promptailor.policies.pap_rec.search import TriggerSearch, random_words
from promptailor.policies.pap_rec.state import SearchCases, SearchState, TriggerCase
from promptailor.policies.white_box import Meter, TriggerVocabulary, WhiteBox, WhiteBoxPrompt
from promptailor.prompts.assemble import assemble
from promptailor.prompts.errors import BudgetExceededError, CheckpointError, DataError, InputError, SpecError
from promptailor.prompts.patterns import PromptSpec

STATE_FILE = "search.json"
"""The search so far, in a run's folder."""
N_RANDOM = 16
"""Random draws of words that are kept as the baseline of the same length; the search begins at the first."""


def white_box(workspace: Workspace) -> WhiteBox:
    """Return the recommender as a white box; one whose gradients cannot be read is a `SpecError`."""
    if workspace.recommender.in_process:
        from promptailor.app.backends.local.chat import LocalChat  # noqa: PLC0415 - imports torch
        from promptailor.app.backends.local.white_box import EngineWhiteBox  # noqa: PLC0415 - imports torch

        if isinstance(workspace.recommender.model, LocalChat):
            workspace.recommender.model.prepare()
            return EngineWhiteBox(workspace.recommender.model.engine)
    raise SpecError(
        f"--model {workspace.model}: {NAME} reads gradients, which this model does not show; take embedded:NAME or "
        "transformers:FOLDER"
    )


def train_triggers(job: Job, progress: Progress) -> TrainSummary:
    """Search trigger words on training users and select them on validation users, all on second-to-last items."""
    config = _config(job)
    if config.warm and not config.personal:
        raise SpecError("--warm: users get words of their own; say how many by --personal")
    if config.warm > len(job.workspace.split.test):
        raise DataError(f"--warm {config.warm}: there are {len(job.workspace.split.test)} test users")
    encoder = _Encoder(job)
    state = _read_state(job) or SearchState(words=encoder.tokens(encoder.random[0]))
    budget, places = job.workspace.budget, config.shared + config.personal
    announce(f"training {NAME}", projected := _project(job, config, places), budget)
    search = TriggerSearch(
        meter=Meter(box=encoder.box, spend=lambda n: budget.reserve(Spending(calls=n))),
        vocabulary=encoder.vocabulary,
        config=config,
        seed=job.config.seed,
        cases=encoder.cases(),
        fits=encoder.fits,
        state=state,
    )
    stopped: Stopped = "finished"
    per_step = max(1, job.config.calls // (config.rounds * (places + 1)))
    started, before = time.perf_counter(), state.seconds
    personal: dict[str, tuple[int, ...]] = {}
    try:
        budget.reserve(Spending(calls=state.prompts))  # what an earlier part of the run has computed
        for _ in search.run():
            state.seconds = before + time.perf_counter() - started
            write_text(job.folder.path / STATE_FILE, state.model_dump_json(indent=1) + "\n")
            write_lines(job.folder.path / "training.jsonl", state.log)
            progress(per_step)
        personal = search.personalise()
        stopped = "early" if state.stop == "early" else "finished"
    except BudgetExceededError as error:
        stopped = error.stopped
    state.seconds = before + time.perf_counter() - started
    if stopped in ("finished", "early"):
        write_text(job.folder.path / STATE_FILE, state.model_dump_json(indent=1) + "\n")
    policy = TriggerPolicy(
        spec=encoder.spec,
        info=PolicyInfo(name=NAME, version="unsaved"),
        words=search.text(state.best or ()),
        personal={user: search.text(own) for user, own in personal.items()},
        random=encoder.random,
    )
    job.save(policy, n_steps=1, stopped=stopped, user_steps=state.prompts, warm_users=encoder.warm_users)
    summary = job.finish(stopped, 1, state.best_served, state.prompts, projected)
    return summary.model_copy(update={"notes": _notes(state, policy, len(encoder.warm_users))})


def _config(job: Job) -> PapRecConfig:
    return job.config.pap_rec or PapRecConfig()


def _read_state(job: Job) -> SearchState | None:
    path = job.folder.path / STATE_FILE
    if not path.exists():
        return None
    try:
        return SearchState.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        raise CheckpointError(f"{path}: damaged; delete it to search anew") from None


def _project(job: Job, config: PapRecConfig, places: int) -> Spending:
    """Foresee the prompts of a search that runs all its rounds and takes a word in every place; most stop earlier."""
    batch, everyone = min(config.batch, len(job.train)), len(job.train)
    confirmed = 2 * everyone if batch < everyone else 0
    place = batch * (2 + config.top_k) + confirmed
    return Spending(calls=len(job.validation) + config.rounds * (places * place + batch + len(job.validation)))


def _notes(state: SearchState, policy: TriggerPolicy, n_warm: int) -> tuple[str, ...]:
    notes = [f"triggers: {' '.join(policy.words)}" if policy.words else "triggers: none beat the prompt without any"]
    if state.bare_served is not None and state.log:
        last = state.log[-1].validation
        notes.append(f"validation NDCG@10: {state.bare_served:.3f} without, {last:.3f} with the last round's words")
    known = ((name, value) for name, value in state.correlations.items() if value is not None)
    told = ", ".join(f"{name} {value:.2f}" for name, value in known)
    if told:
        notes.append(f"rank correlation with NDCG@10 on other users, over {len(state.trials)} candidates: {told}")
    if state.reliability:
        shares = ", ".join(f"{share:.2f}" for share in state.reliability)
        notes.append(f"of {n_warm} warm users {len(policy.personal)} have words of their own; reliability {shares}")
    notes.append(f"searched for {state.seconds:.0f} s, {state.round} rounds, {state.prompts:,} prompts computed")
    return tuple(notes)


@dataclass(frozen=True)
class _Encoder:
    """Turns a job's users into what the search reads."""

    job: Job

    @cached_property
    def config(self) -> PapRecConfig:
        return _config(self.job)

    @cached_property
    def box(self) -> WhiteBox:
        return white_box(self.job.workspace)

    @property
    def spec(self) -> PromptSpec:
        """The manual prompt; for the direct task without the history."""
        manual = self.job.workspace.catalogue.manual_prompt
        return manual.model_copy(update={"history_length": 0}) if self.config.task == "direct" else manual

    @cached_property
    def vocabulary(self) -> TriggerVocabulary:
        titles = {item.title for item in self.job.workspace.dataset.items.values()}
        vocabulary = self.box.vocabulary(self.config.vocabulary, barred=titles)
        if len(vocabulary.words) < self.config.top_k:
            raise InputError(f"the model's tokenizer has {len(vocabulary.words)} whole words; take another model")
        return vocabulary

    @property
    def warm_users(self) -> tuple[str, ...]:
        return self.job.workspace.split.test[: self.config.warm]

    @cached_property
    def random(self) -> tuple[Words, ...]:
        n, key = self.config.shared + self.config.personal, ("triggers", self.job.config.seed)
        return tuple(random_words(self.vocabulary, n, self.fits, *key, draw) for draw in range(N_RANDOM))

    @cached_property
    def _sample(self) -> EvalCase:
        return self._users(self.job.workspace.split.train[:1], "second_last")[0]

    def tokens(self, words: Words) -> tuple[int, ...]:
        return tuple(self.vocabulary.token_of(word) for word in words)

    def fits(self, words: Sequence[str]) -> bool:
        """Whether words are tokenised as themselves in a prompt; their place is the same in every prompt."""
        return self._encode(self._sample, tuple(words)) is not None

    def cases(self) -> SearchCases:
        """Encode everybody; the warm users are the only test users among them, and on their second-to-last item."""
        split, config = self.job.workspace.split, self.job.config
        train, validation = split.train[: config.users], split.validation[: config.validation_users]
        bare = [self._encode(case, ()) for case in self._users(validation, "second_last")]
        again = self._encoded(train, "last") if self.config.personal else []
        asked = {case.user_id for case in again} or set(train)  # a candidate source may lack items for one of the two
        return SearchCases(
            train=[case for case in self._encoded(train, "second_last") if case.user_id in asked],
            validation=self._encoded(validation, "second_last"),
            bare=[prompt for prompt in bare if prompt is not None],
            train_again=again,
            warm=self._encoded(self.warm_users, "second_last"),
        )

    def _users(self, users: Sequence[str], hold_out: HoldOut) -> tuple[EvalCase, ...]:
        config = self.job.config
        return self.job.workspace.cases(users, config.n_candidates, config.seed, hold_out=hold_out)

    def _encoded(self, users: Sequence[str], hold_out: HoldOut) -> list[TriggerCase]:
        cases = []
        for case in self._users(users, hold_out):
            prompt = self._encode(case, self.random[0])
            if prompt is None:
                raise InputError(f"user {case.user_id!r}: the prompt's end is tokenised unlike others'; report it")
            cases.append(TriggerCase(user_id=case.user_id, prompt=prompt))
        return cases

    def _encode(self, case: EvalCase, words: Words) -> WhiteBoxPrompt | None:
        workspace = self.job.workspace
        prompt = assemble(
            case.request, self.spec, workspace.catalogue, seed=self.job.config.seed, triggers=" ".join(words)
        )
        shown = [item.item_id for item in prompt.shown]
        return self.box.encode(
            prompt.messages, labels=prompt.labels, relevant=shown.index(case.relevant_item_id), triggers=words
        )
