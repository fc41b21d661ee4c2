"""`promptailor prompts`: look at the versions of an AGP run's instruction, and choose which one it serves."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.table import Table

from promptailor.app.run_folder import POLICY
from promptailor.evals.records import write_text
from promptailor.graph.guiding import guided_policy
from promptailor.policies.checkpoint import read_manifest, save_policy
from promptailor.policies.lineage import LINEAGE_FILE, Lineage, PromptVersion, read_lineage
from promptailor.policies.profiling import Profiling
from promptailor.prompts.errors import InputError
from promptailor.prompts.patterns import Catalogue, load_catalogue


class Versions(BaseModel):
    """A run's versions."""

    folder: Path
    served: int
    lineage: Lineage

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw one row per round."""
        table = Table(box=None, header_style="bold")
        for column in ("", "version", "from", "verdict", "difference", "failed", "mean rank", "calls"):
            table.add_column(column, no_wrap=True)
        for version in self.lineage.versions:
            judged = version.verdict
            table.add_row(
                "*" if version.number == self.served else "",
                str(version.number),
                "" if version.parent is None else str(version.parent),
                _word(version),
                f"{judged.difference:+.3f} [{judged.low:+.3f}, {judged.high:+.3f}]" if judged else "",
                f"{version.n_failed} of {len(version.users)}" if version.users else "",
                "" if version.mean_rank is None else f"{version.mean_rank:.1f}",
                f"{version.calls:,}",
            )
        yield table
        how = "pinned" if self.lineage.pinned is not None else "the last accepted one"
        yield f"* served ({how}): {escape(self.lineage.instruction)}"


class VersionView(BaseModel):
    """One version with what led to it."""

    version: PromptVersion

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Say what it is, what it came from and how it was judged."""
        version = self.version
        origin = "the beginning" if version.parent is None else f"version {version.parent}"
        yield f"version {version.number}, from {origin}: {_word(version)}"
        if version.text is not None:
            yield escape(version.text)
        if version.feedback:
            yield f"advice: {escape(version.feedback)}"
        if version.verdict:
            found = version.verdict
            test = "" if found.p is None or found.alpha is None else f", p = {found.p:.2g} against {found.alpha:.2g}"
            yield f"{found.difference:+.3f} [{found.low:+.3f}, {found.high:+.3f}] on {found.n_users} users{test}"


def list_versions(run: Path) -> Versions:
    """Read a run's versions."""
    lineage = read_lineage(run)
    return Versions(folder=run, served=lineage.served.number, lineage=lineage)


def show_version(run: Path, number: int | None) -> VersionView:
    """Read one version; the served one where no number is given."""
    lineage = read_lineage(run)
    return VersionView(version=lineage.served if number is None else lineage.version(number))


def diff_versions(run: Path, before: int | None, after: int | None) -> str:
    """Return a diff of two versions: by default of the served one and its parent."""
    lineage = read_lineage(run)
    new = lineage.served.number if after is None else after
    old = lineage.version(new).parent if before is None else before
    return lineage.diff(0 if old is None else old, new)


def pin_version(run: Path, number: int | None, catalogue: Path | None = None) -> Versions:
    """Serve a version from now on; None serves what was learned again."""
    return _serve(run, read_lineage(run).pin(number), load_catalogue(catalogue))


def rollback_version(run: Path, catalogue: Path | None = None) -> Versions:
    """Serve the version that the served one came from."""
    return _serve(run, read_lineage(run).rollback(), load_catalogue(catalogue))


def _serve(run: Path, lineage: Lineage, catalogue: Catalogue) -> Versions:
    """Save the policy of the served version, and then which it is."""
    manifest = read_manifest(run / POLICY)
    if not catalogue.reads(manifest.catalogue_digest):
        raise InputError(f"{run}: was trained with another catalogue; pass it with --catalogue")
    policy = guided_policy(
        catalogue, manifest.profiling or Profiling(summaries=False), lineage.subject, lineage.instruction
    )
    save_policy(
        run / POLICY,
        policy,
        manifest.model_copy(update={"profiling": policy.info.profiling, "catalogue_digest": catalogue.digest}),
    )
    write_text(run / LINEAGE_FILE, lineage.model_dump_json(indent=2) + "\n")
    return Versions(folder=run, served=lineage.served.number, lineage=lineage)


def _word(version: PromptVersion) -> str:
    if version.parent is None:
        return "first"
    if version.verdict is None:
        return str(version.reason).replace("_", " ")
    return "accepted" if version.accepted else "rejected"
