"""`replay:FOLDER`: the answers of recorded runs, by content; what was not recorded is an error, and nothing is paid.

A replayed run asks under the recorded model's name, so that its results and manifests are the recorded run's. Any
folder with response stores in it will do: a run is shared as it lies there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, NoReturn

from promptailor.app.backends.budget import Budget
from promptailor.app.backends.port import ModelPort
from promptailor.app.backends.ranking_chat import RankingChat
from promptailor.app.backends.spec import ModelSpec
from promptailor.app.backends.store import STORE_FILE, RecordedModel, ResponseStore
from promptailor.prompts.errors import InputError, SpecError

REPLAY = "replay"


class UnrecordedModel(RankingChat):
    """Stands where the recorded model stood; it is only asked for what nobody has recorded."""

    in_process: ClassVar[bool] = True

    folder: str
    recorded_max_candidates: int | None

    @property
    def _llm_type(self) -> str:
        return REPLAY

    @property
    def max_candidates(self) -> int | None:
        """The recorded model's own limit, so that windows are the same."""
        return self.recorded_max_candidates

    def _generate(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse."""
        raise InputError(
            f"{REPLAY}:{self.folder}: holds no answer to this prompt; it was recorded with another data set, seed, "
            "catalogue or split. Use the recorded settings, or name a model that can answer"
        )

    async def _agenerate(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse."""
        self._generate()


def replay_port(spec: ModelSpec, *, store: ResponseStore) -> ModelPort:
    """Open the stores under a folder.

    Args:
        spec: the folder, and with `model` which of several recorded models is meant.
        store: the replaying run's own.

    Raises:
        SpecError: there are no answers, or of several models.
    """
    spec.refuse_unknown("model")
    folder = Path(spec.model)
    stores = [ResponseStore(path, read_only=True) for path in sorted(folder.rglob(STORE_FILE))]
    recorded = {model.spec: model for opened in stores for model in opened.models()}
    model = _choose(spec, recorded)
    return ModelPort(
        spec=model.spec,
        model=UnrecordedModel(
            folder=spec.model, fingerprint=model.fingerprint, recorded_max_candidates=model.max_candidates
        ),
        store=store,
        recorded=tuple(stores),
        budget=Budget(),
    )


def _choose(spec: ModelSpec, recorded: dict[str, RecordedModel]) -> RecordedModel:
    wanted = spec.text("model")
    if not recorded:
        raise SpecError(f"--model {spec}: no recorded answers ({STORE_FILE}) under this folder; name a run's --out")
    if wanted is None and len(recorded) == 1:
        return next(iter(recorded.values()))
    if wanted in recorded:
        return recorded[wanted]
    there = ", ".join(recorded)
    raise SpecError(f"--model {spec}: holds answers of {there}; choose one with ?model=NAME")
