"""The report's figures as inline SVG. Imported only where a page is made, because matplotlib takes a second.

Figures are drawn in placeholder colours that become CSS variables of the page, so that one drawing suits a light and a
dark page; text stays text, in the page's own font.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from promptailor.evals.decomposition import Decomposition
from promptailor.evals.metrics import PRIMARY
from promptailor.evals.page_view import Bar, CostPoint, Points
from promptailor.evals.report import CurvePoint, MethodResult, SentenceShare, SlotProfile
from promptailor.evals.statistics import ALPHA, Comparison, Estimate

INK, MUTED, GRID, ACCENT, SECOND = "#010101", "#020202", "#030303", "#040404", "#050505"
THIRD, FOURTH = "#060606", "#070707"
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    ACCENT: "--accent",
    SECOND: "--second",
    THIRD: "--third",
    FOURTH: "--fourth",
}
_LINES = [(c, m) for m in "osD" for c in (ACCENT, SECOND, THIRD, FOURTH, MUTED)]
"""Colour and marker of each line of a panel, in order."""
_LETTER = 0.0095
"""Width of a letter as a share of a panel that fills the page."""
_MOST_BANDS = 4
"""More intervals than this in one panel hide each other; the table has them."""

WIDTH = 7.6
"""Inches; the page scales figures to its own width."""
ROW = 0.28
"""Inches per row of a chart that lists things."""
_MEASURE = PRIMARY.upper()
_SAFE = re.compile(r"[^a-z0-9]+")

_STYLE: dict[Any, Any] = {  # matplotlib's own type of the keys differs between its versions
    "svg.fonttype": "none",
    "svg.hashsalt": "promptailor",
    "text.parse_math": False,  # names are not ours: a dollar sign is a dollar sign
    "font.size": 9.5,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


def learning_curve(curves: Mapping[str, Sequence[CurvePoint]], *, name: str = "learning-curve") -> str:
    """Draw mean training reward and validation against the calls spent, one panel per training run.

    `name` keeps the ids of several such figures on one page apart.
    """
    with _styled():
        figure, panels = _panels(len(curves), columns=2, height=2.3)
        for axes, (run, points) in zip(panels, curves.items(), strict=True):
            calls = [p.calls for p in points]
            axes.plot(calls, [p.mean_reward for p in points], color=MUTED, linewidth=1.2, label="training")
            checked = [(p.calls, p.validation) for p in points if p.validation is not None]
            if checked:
                x, y = zip(*checked, strict=True)
                axes.plot(x, y, color=ACCENT, linewidth=1.8, marker="o", markersize=3, label="validation")
            axes.set(title=_short(run), xlabel="calls", ylabel=_MEASURE)
            axes.legend(loc="lower right")
        return _svg(figure, name, "Reward against calls spent in training")


def decomposition(found: Decomposition) -> str:
    """Draw the mean reward of each way of choosing a prompt, with intervals."""
    rows: list[tuple[str, Estimate, str]] = [
        ("best single prompt", found.best_single, MUTED),
        ("best prompt per segment", found.per_segment, MUTED),
        ("policy, per user", found.policy, ACCENT),
        ("oracle, corrected", found.oracle_corrected, SECOND),
        ("oracle, after the fact", found.oracle, SECOND),
    ]
    if found.optimum:
        rows.append(("optimum of the world", found.optimum, SECOND))
    with _styled():
        figure, axes = _figure(0.8 + ROW * len(rows))
        for row, (_, value, colour) in enumerate(rows):
            axes.barh(row, value.mean, height=0.62, color=colour, alpha=0.55)
            axes.plot([value.low, value.high], [row, row], color=INK, linewidth=1.3)
            axes.annotate(f"{value.mean:.3f}", (value.high, row), (5, 0), textcoords="offset points", va="center")
        _rows(axes, [label for label, _, _ in rows])
        axes.set(xlabel=_MEASURE, xlim=(0, min(1.08, 1.15 * max(value.high for _, value, _ in rows))))
        return _svg(figure, "decomposition", "Mean reward of each way of choosing a prompt")


def quality_against_calls(methods: Mapping[str, MethodResult]) -> str:
    """Draw each method as a point: model calls per user, and quality."""
    with _styled():
        figure, axes = _figure(3.8)
        _points(axes, [CostPoint(name, m.llm_calls / m.n_users, m.primary) for name, m in methods.items()])
        axes.set(xlabel="model calls per user", ylabel=_MEASURE)
        return _svg(figure, "quality", "Quality against model calls per user")


def slot_profile(profiles: Mapping[str, SlotProfile], chance: float, *, name: str = "slots") -> str:
    """Draw quality by the slot of the relevant item, one panel per method, with chance as the dashed line."""
    with _styled():
        figure, panels = _panels(len(profiles), columns=4, height=1.65)
        for axes, (method, profile) in zip(panels, profiles.items(), strict=True):
            slots = [s.slot + 1 for s in profile.slots]
            low, high = [s.score.low for s in profile.slots], [s.score.high for s in profile.slots]
            axes.fill_between(slots, low, high, color=ACCENT, alpha=0.18, linewidth=0)
            axes.plot(slots, [s.score.mean for s in profile.slots], color=ACCENT, linewidth=1.5)
            axes.axhline(chance, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
            ticks = sorted({slots[0], slots[len(slots) // 2], slots[-1]}) if slots else []
            axes.set(title=_short(method, 20), ylim=(0, 1.02), yticks=(0, 0.5, 1), xticks=ticks)
        return _svg(figure, name, "Quality by the slot of the relevant item")


def sentence_shares(shares: Mapping[str, Sequence[SentenceShare]], name: str) -> str:
    """Draw how many users got each sentence, one panel per pattern (RPP, Figures 11 to 14, as bars)."""
    with _styled():
        sizes = [max(3, len(rows)) for rows in shares.values()]
        heights = [max(sizes[start : start + 2]) for start in range(0, len(sizes), 2)]
        figure, panels = _panels(
            len(shares), columns=2, height=0.5 + 0.22 * sum(heights) / len(heights), ratios=heights
        )
        for place, (axes, (pattern, rows)) in enumerate(zip(panels, shares.items(), strict=True)):
            total = sum(row.n_users for row in rows)
            axes.barh(range(len(rows)), [row.n_users / total for row in rows], color=ACCENT, alpha=0.65, height=0.7)
            for line, row in enumerate(rows):
                text = f"{row.n_users / total:.0%}"
                axes.annotate(text, (row.n_users / total, line), (4, 0), textcoords="offset points", va="center")
            _rows(axes, [_short(row.label, 26) for row in rows], room=heights[place // 2])
            axes.set(xlim=(0, 1.15), xticks=())
            axes.set_title(pattern.replace("_", " "))
        return _svg(figure, f"shares-{name}", "Share of users per sentence")


def forest(comparisons: Sequence[Comparison]) -> str:
    """Draw paired differences with their intervals; shown differences are in colour."""
    with _styled():
        figure, axes = _figure(0.75 + ROW * len(comparisons))
        for row, c in enumerate(comparisons):
            colour = ACCENT if c.p_holm < ALPHA else MUTED
            axes.plot([c.low, c.high], [row, row], color=colour, linewidth=1.8)
            axes.plot(c.difference, row, "s", color=colour, markersize=5)
        _rows(axes, [f"{_short(c.a, 24)} − {_short(c.b, 24)}" for c in comparisons])
        axes.axvline(0, color=MUTED, linewidth=1)
        axes.set(xlabel=f"difference in {_MEASURE}")
        return _svg(figure, "forest", "Paired differences with 95 % intervals")


def bars(panels: Mapping[str, Sequence[Bar]], measure: str, *, name: str) -> str:
    """Draw one bar per row and a panel per data set; what a paper prints is a vertical mark."""
    with _styled():
        rows = max(len(found) for found in panels.values())
        figure, drawn = _panels(len(panels), columns=3, height=0.85 + 0.24 * rows)
        for place, (axes, (title, found)) in enumerate(zip(drawn, panels.items(), strict=True)):
            for row, bar in enumerate(found):
                colour = SECOND if bar.upper_bound else ACCENT
                axes.barh(row, bar.value.mean, height=0.62, color=colour, alpha=0.25 if bar.upper_bound else 0.55)
                axes.plot([bar.value.low, bar.value.high], [row, row], color=INK, linewidth=1.3)
                if bar.printed is not None:
                    axes.plot([bar.printed] * 2, [row - 0.4, row + 0.4], color=FOURTH, linewidth=2)
            _rows(axes, [_short(bar.label, 24) for bar in found], room=rows)
            named = [bar.label for bar in found] != [bar.label for bar in next(iter(panels.values()))]
            axes.tick_params(axis="y", labelleft=place % 3 == 0 or named)
            axes.set(title=_short(title, 20), xlabel=measure, xlim=(0, None))
        return _svg(figure, name, f"{measure} of each row")


def curves(
    panels: Mapping[str, Mapping[str, Points]], measure: str, *, x_label: str, name: str, bounds: Collection[str] = ()
) -> str:
    """Draw lines over x with their intervals, a panel per data set; x that are words are placed side by side.

    `bounds` are the lines that are no results: dashed, without an interval.
    """
    with _styled():
        crowded = any(len(lines) > _MOST_BANDS for lines in panels.values())
        figure, drawn = _panels(len(panels), columns=2, height=3.6 if crowded else 2.7)
        for axes, (title, lines) in zip(drawn, panels.items(), strict=True):
            words = list(dict.fromkeys(str(x) for points in lines.values() for x, _ in points if isinstance(x, str)))
            for (series, points), (colour, marker) in zip(lines.items(), _LINES, strict=False):
                placed = sorted((words.index(x) if isinstance(x, str) else x, value) for x, value in points)
                x_values, values = zip(*placed, strict=True)
                low, high = [v.low for v in values], [v.high for v in values]
                style: Any = {"color": colour, "marker": marker, "markersize": 4, "linewidth": 1.6, "label": series}
                if series in bounds:
                    style["linestyle"] = (0, (4, 3))
                elif len(lines) <= _MOST_BANDS:
                    axes.fill_between(x_values, low, high, color=colour, alpha=0.14, linewidth=0)
                axes.plot(x_values, [v.mean for v in values], **style)
            if words:
                axes.set_xticks(range(len(words)), [_short(word, 14) for word in words])
            else:
                axes.set_xticks(sorted({float(x) for points in lines.values() for x, _ in points}))
                axes.xaxis.set_major_formatter("{x:g}")
                _thin(axes)
            axes.set(title=_short(title), xlabel=x_label, ylabel=measure)
            axes.margins(y=0.12)
            if any(lines) and not crowded:
                axes.legend(loc="best", fontsize=8)
        if crowded:  # a legend among so many lines would hide some
            figure.legend(*drawn[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
        return _svg(figure, name, f"{measure} as a curve")


def cost(panels: Mapping[str, Sequence[CostPoint]], measure: str, *, name: str) -> str:
    """Draw quality against model calls per user (logarithmic), a panel per data set."""
    with _styled():
        figure, drawn = _panels(len(panels), columns=1, height=3.6)
        for axes, (title, points) in zip(drawn, panels.items(), strict=True):
            _points(axes, points)
            axes.set(title=_short(title), xlabel="model calls per user", ylabel=measure.upper())
        return _svg(figure, name, "Quality against model calls per user")


def _points(axes: Axes, points: Sequence[CostPoint]) -> None:
    """Place methods by the calls they cost, their names beside them."""
    span = max(p.value.high for p in points) - min(p.value.low for p in points)
    labels: list[tuple[float, float, str]] = []
    for label, calls, value in points:
        x, colour = math.log2(1 + calls), ACCENT if calls else MUTED
        axes.plot([x, x], [value.low, value.high], color=colour, linewidth=1, alpha=0.5)
        axes.plot(x, value.mean, "o", color=colour, markersize=6)
        labels.append((x, value.mean, _short(label)))
    last = max(x for x, _, _ in labels)
    ticks = [0, *(2**k for k in range(12) if math.log2(1 + 2**k) <= last + 0.5)]
    axes.set_xticks([math.log2(1 + tick) for tick in ticks], [str(tick) for tick in ticks])
    right = last + max(1.0, 0.35 * last)
    for x, y, label in _spread(labels, gap=0.055 * span, letter=(right + 0.15) * _LETTER):
        axes.annotate(label, (x, y), (9, 0), textcoords="offset points", va="center")
    axes.set_xlim(-0.15, right)


def _thin(axes: Axes, most: int = 8) -> None:
    """Leave out labels where they would run into each other."""
    ticks = axes.get_xticks()
    if len(ticks) > most:
        axes.set_xticks(ticks[:: math.ceil(len(ticks) / most)])


@contextmanager
def _styled() -> Iterator[None]:
    with mpl.rc_context(_STYLE):
        yield


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _panels(
    count: int, *, columns: int, height: float, ratios: Sequence[float] | None = None
) -> tuple[Figure, list[Axes]]:
    """Make a grid of `count` panels; `height` is inches per row of the grid, in the mean where `ratios` differ."""
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    figure = Figure(figsize=(WIDTH, height * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False, height_ratios=ratios).flat)
    for unused in panels[count:]:
        unused.remove()
    return figure, panels[:count]


def _rows(axes: Axes, labels: Sequence[str], *, room: int | None = None) -> None:
    """Name the rows of a chart that lists things, first one on top; `room` is for how many, where there are fewer."""
    axes.set_yticks(range(len(labels)), [_short(label, 52) for label in labels])
    axes.set_ylim((room or len(labels)) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)


def _spread(labels: Sequence[tuple[float, float, str]], *, gap: float, letter: float) -> list[tuple[float, float, str]]:
    """Move labels (x, y, text) up until no two that share a stretch of x are less than `gap` apart.

    `letter` is the width of one letter in units of x.
    """
    placed: list[tuple[float, float, str]] = []
    for x, y, text in sorted(labels, key=lambda label: (label[1], label[0], label[2])):
        near = [b for a, b, other in placed if a < x + letter * (len(text) + 2) and x < a + letter * (len(other) + 2)]
        for other_y in sorted(near):
            if abs(y - other_y) < gap:
                y = other_y + gap
        placed.append((x, y, text))
    return placed


def _short(text: str, length: int = 34) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _svg(figure: Figure, name: str, label: str) -> str:
    """Render a figure for inlining: no prolog, ids of its own, the page's colours and font, an accessible name."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(
        r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', rf'<svg role="img" aria-label="{label}" viewBox="\1">', svg, count=1
    )
    svg = re.sub(r"(\bid=\"|url\(#|href=\"#)", rf"\g<1>{_SAFE.sub('-', name)}-", svg).replace("xlink:href", "href")
    svg = re.sub(r" font-family: [^;]*;|<defs>\s*<style.*?</defs>", "", svg, flags=re.DOTALL)  # the page has its own
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return svg
