"""`promptailor artefact`: a warning about shared slots, measured on your data."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from promptailor.app.progress import progress_bar
from promptailor.app.settings import Settings
from promptailor.app.wiring import Workspace
from promptailor.evals.artefact import COPIES, N_REPEATS, PROTOCOLS, ArtefactStudy, Ranker, study_artefact
from promptailor.evals.baselines.order import Identity, Random
from promptailor.evals.baselines.popularity import Popularity
from promptailor.evals.records import write_text
from promptailor.prompts.errors import DataError, MissingExtraError

SHOWN_ROUNDS = (1, 7, 15)
"""Numbers of rounds to choose from that the terminal shows."""


class Artefact(BaseModel):
    """The study, and where it lies."""

    folder: Path
    study: ArtefactStudy

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw one row per ranker and protocol."""
        table = Table(box=None, header_style="bold")
        for column in ("ranker", "slots", *(f"best of {n}" for n in SHOWN_ROUNDS), "perfect"):
            table.add_column(column, no_wrap=True)
        for finding in self.study.findings:
            of = {selected.n_rounds: selected for selected in finding.selected}
            cells = [f"{of[n].mean:.3f} [{of[n].low:.3f}, {of[n].high:.3f}]" for n in SHOWN_ROUNDS]
            table.add_row(finding.ranker, finding.protocol, *cells, f"{finding.selected[-1].perfect:.0%}")
        yield table
        yield (
            f"NDCG@10 of {self.study.n_test} test users in the round that was best on {self.study.n_train} training"
            f" users; chance is {self.study.chance:.3f}. figure: {self.folder / 'artefact.png'}"
        )


def run_artefact(dataset: str, out: Path, *, users: int, n_candidates: int, seed: int) -> Artefact:
    """Study three rankers that know no user, and write `artefact.json` and `artefact.png`.

    Raises:
        DataError: the data set has fewer users in a pool.
        MissingExtraError: matplotlib is not installed.
    """
    workspace = Workspace(settings=Settings(), dataset_name=dataset, model=None, seed=seed)
    pools = (workspace.split.train, workspace.split.test)
    if users > (least := min(map(len, pools))):
        raise DataError(f"--users {users}: {workspace.dataset.name} has {least} users in its smallest pool")
    train, test = (workspace.cases(pool[:users], n_candidates, seed) for pool in pools)
    popularity = Popularity(workspace.dataset.training_sequences())
    rankers: dict[str, Ranker] = {
        COPIES: lambda draw: Identity(),
        "random order": lambda draw: Random(seed + draw),
        "popularity": lambda draw: popularity,
    }
    with progress_bar("studying", N_REPEATS * len(rankers) * len(PROTOCOLS)) as progress:
        study = study_artefact(train, test, rankers, dataset=workspace.dataset.name, seed=seed, progress=progress)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "artefact.json", study.model_dump_json(indent=2) + "\n")
    try:  # an extra, and slow to import
        from promptailor.evals.artefact_figure import draw  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("artefact.png", "baselines") from error
    draw(study, out / "artefact.png")
    return Artefact(folder=out, study=study)
