"""A page's view as HTML and as Markdown. Both are written from the same cells, so that they cannot disagree."""

from __future__ import annotations

import re
from collections.abc import Iterator

from promptailor.evals.case_studies import CaseStudy, Moves
from promptailor.evals.exhibit_tables import findings_table
from promptailor.evals.page_view import Cell, Line, PageView, Section, Table
from promptailor.evals.render import load_template

CHANGES = {
    "role_playing": "role-playing",
    "history_records": "history records",
    "reasoning_guidance": "reasoning guidance",
    "output_format": "output format",
    "user_profile": "user profile",
    "several": "several patterns at once",
}
"""What the kinds of change are called."""
_MARKUP = re.compile(r"([\\`*_\[\]<>|#~$&])")


def page_html(page: PageView) -> str:
    """Return the page as one HTML file that needs nothing else; everything in it that is not ours is escaped."""
    return load_template("results.html.j2").render(
        page=page, changes=CHANGES, findings_table=findings_table, counted=counted, shown_at=shown_at, ranked=_ranked
    )


def page_markdown(page: PageView) -> str:
    """Return the page's tables as Markdown without HTML; of figures, the numbers behind them."""
    parts = [f"# {_text(page.title)}", _text(page.about), "\n".join(f"* {_text(line)}" for line in page.summary)]
    if page.findings:
        parts += ["## What holds and what does not", *_table(page.findings)]
    for section in page.sections:
        parts += _section(section)
    parts += ["## How this was made", "\n".join(f"* {name}: {_text(value)}" for name, value in page.facts.items())]
    return "\n\n".join(part for part in parts if part) + "\n"


def _section(section: Section) -> Iterator[str]:
    yield f"## {_text(section.title)}"
    if section.differs:
        yield f"What differs from the paper: {_text(section.differs)}"
    for table in section.tables:
        yield from _table(table)
    for note in section.notes:
        yield _text(note)
    if section.findings:
        yield from _table(findings_table(section.findings, caption="Planned comparisons"))
    for on in section.cases:
        for moves in on.moves:
            yield from _moves(on.dataset, moves)
    if section.commands:
        yield "\n".join(f"* made by {_code(command)}" for command in section.commands)


def _table(table: Table) -> Iterator[str]:
    if table.caption:
        yield f"{_text(table.caption)}:"
    groups = [name for name, width in table.groups for _ in range(width)]
    head = [f"{group} {name}" for group, name in zip(groups, table.head, strict=True)] if groups else table.head
    rows = [f"| {' | '.join(_text(name) for name in (table.corner, *head))} |", f"|{'---|' * (1 + len(head))}"]
    yield "\n".join([*rows, *(_line(line) for line in table.lines)])


def _line(line: Line) -> str:
    return f"| {' | '.join([_text(line.label), *(_cell(cell) for cell in line.cells)])} |"


def _cell(cell: Cell) -> str:
    text = f"**{_text(cell.text)}**" if cell.best else _text(cell.text)
    shown = " ".join(part for part in (text, _text(cell.small), _text(cell.seeds)) if part)
    return f"{shown}; paper {_text(cell.printed)}" if cell.printed else shown


def _moves(dataset: str, moves: Moves) -> Iterator[str]:
    yield f"### {dataset}: {CHANGES[moves.change]}"
    yield counted(moves)
    if moves.case:
        yield from _case(moves.case)


def counted(moves: Moves) -> str:
    """Say how often a kind of change helped, hurt and did nothing."""
    return (
        f"The relevant item rose in {moves.n_better} rankings, fell in {moves.n_worse} and stayed in {moves.n_same}."
        + ("" if moves.case else " There is no success to show.")
    )


def _case(case: CaseStudy) -> Iterator[str]:
    yield (
        f"User {_text(case.user_id)}, {_text(case.before)} against {_text(case.after)}: the relevant item went from"
        f" place {case.rank_before} to place {case.rank_after}. {shown_at(case)}"
    )
    yield "\n".join(
        f"* {CHANGES.get(d.pattern, d.pattern)}: “{_text(d.before)}” became “{_text(d.after)}”"
        for d in case.differences
    )
    yield f"History, oldest first: {', '.join(map(_text, case.history)) or 'none shown'}."
    rows = ["| place | before | after |", "|---|---|---|"]
    for place, titles in enumerate(_ranked(case), 1):
        relevant = (place == case.rank_before, place == case.rank_after)
        cells = [
            f"**{_text(title)}**" if marked else _text(title) for title, marked in zip(titles, relevant, strict=True)
        ]
        rows.append(f"| {place} | {cells[0]} | {cells[1]} |")
    yield "\n".join(rows)


def _ranked(case: CaseStudy) -> Iterator[tuple[str, str]]:
    return zip(case.ranked_before, case.ranked_after, strict=True)


def shown_at(case: CaseStudy) -> str:
    """Say where the prompts listed the relevant item, because a ranking can move for that alone."""
    if case.shown_before is None or case.shown_after is None:
        return ""
    if case.shown_before == case.shown_after:
        return f"Both prompts listed it at place {case.shown_before}."
    return f"The prompts listed it at places {case.shown_before} and {case.shown_after}: the order changed as well."


def _code(text: str) -> str:
    """Quote a command with more backticks than it has in a row."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {' '.join(text.split())} {fence}" if longest else f"`{' '.join(text.split())}`"


def _text(text: str) -> str:
    """Keep text that is not ours from becoming markup."""
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))
