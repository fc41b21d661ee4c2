"""`promptailor doctor`: what works here, and what to install for the rest."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec

from packaging.requirements import Requirement
from pydantic import BaseModel
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markup import escape
from rich.table import Table

from promptailor.app.backends import PROVIDERS
from promptailor.app.data import list_datasets
from promptailor.app.settings import Settings


class Check(BaseModel):
    """One thing that works or does not."""

    name: str
    ok: bool
    detail: str


class Diagnosis(BaseModel):
    """Everything that was looked at."""

    checks: list[Check]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw the checks as a table."""
        table = Table("", "what", "detail", box=None)
        for check in self.checks:
            # Escaped, because `promptailor[local]` would be read as markup.
            table.add_row("[green]ok[/]" if check.ok else "[yellow]--[/]", check.name, escape(check.detail))
        yield table


def examine() -> Diagnosis:
    """Look at Python, extras, back ends and data sets; nothing is downloaded and no model is called."""
    settings = Settings()
    checks = [Check(name="python", ok=sys.version_info >= (3, 11), detail=sys.version.split()[0])]
    checks += [_extra(name, needed) for name, needed in _extras().items()]
    for provider in PROVIDERS.values():
        ok = provider.needs is None or find_spec(provider.needs) is not None
        install = "" if ok else f"; pip install 'promptailor[{provider.extra}]'"
        checks.append(Check(name=provider.example, ok=ok, detail=provider.about + install))
    for status in list_datasets(settings.data_dir):
        checks.append(Check(name=f"data {status.name}", ok=status.present, detail=status.detail))
    return Diagnosis(checks=checks)


def _extras() -> dict[str, list[Requirement]]:
    """Return the distribution's extras and what each needs, from the installed metadata."""
    extras: dict[str, list[Requirement]] = {}
    for line in requires("promptailor") or []:
        requirement = Requirement(line)
        marker = str(requirement.marker or "")
        if "extra ==" in marker:
            extras.setdefault(marker.split("extra ==")[1].strip(" \"'"), []).append(requirement)
    return extras


def _extra(name: str, needed: list[Requirement]) -> Check:
    missing = [r.name for r in needed if not _installed(r)]
    detail = f"pip install 'promptailor[{name}]' (missing: {', '.join(missing)})" if missing else "installed"
    return Check(name=f"extra {name}", ok=not missing, detail=detail)


def _installed(requirement: Requirement) -> bool:
    try:
        return requirement.specifier.contains(version(requirement.name), prereleases=True)
    except PackageNotFoundError:
        return False
