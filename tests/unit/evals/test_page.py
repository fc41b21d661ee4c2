from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from promptailor.evals.baselines.base import Method, RankedUser
from promptailor.evals.baselines.order import Identity
from promptailor.evals.exhibit_tables import missing_table
from promptailor.evals.exhibits import Exhibit, ExhibitKind, Row, RunMethod
from promptailor.evals.page import DatasetSize, Page, view_page, write_page
from promptailor.evals.page_view import PageView, Section, Table
from promptailor.evals.report import CurvePoint, Environment, RunInfo
from promptailor.evals.runner import evaluate
from promptailor.evals.sheets import Sheet
from promptailor.evals.types import EvalCase
from promptailor.policies.draws import uniform
from promptailor.prompts.domain import Item, RankRequest
from promptailor.prompts.errors import InputError
from promptailor.prompts.patterns import load_catalogue

HOSTILE = (
    "<img src=http://evil.example/x onerror=alert(1)> {{ 7*7 }} $\\frac{1}$ | **bold** [a](http://evil.example) `&amp;"
)
N_USERS = 60
MANUAL = {"role_playing": 0, "reasoning_guidance": 1, "output_format": 0, "history_length": 2}


def cases() -> list[EvalCase]:
    found = []
    for user in range(N_USERS):
        slot = user % 5
        ids = [f"u{user}-{'target' if place == slot else place}" for place in range(5)]
        candidates = tuple(Item(item_id=i, title=f"{HOSTILE} {i}") for i in ids)
        history = tuple(Item(item_id=f"p{user % k}", title=f"Past {HOSTILE}") for k in (2, 7))
        request = RankRequest(user_id=f"u{user}", history=history, candidates=candidates, domain="neutral")
        found.append(EvalCase(request=request, relevant_item_id=f"u{user}-target", slot=slot))
    return found


class TwoSteps:
    """Puts the target first for a share of the users; its second step is the served one."""

    llm = True
    train_users: tuple[str, ...] = ()

    def __init__(self, name: str, skill: float, seed: int) -> None:
        self.name, self.skill, self.seed = name, skill, seed

    def rank(self, requests: Sequence[RankRequest]) -> list[RankedUser]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: RankRequest) -> RankedUser:
        draw = (self.seed, self.name, request.user_id)
        shown = tuple(
            sorted((c.item_id for c in request.candidates), key=lambda i: uniform("shown", request.user_id, i))
        )
        steps = []
        for step in range(2):
            knows = uniform(*draw, step) < self.skill
            target = [i for i in shown if knows and i.endswith("target")]
            steps.append((*target, *(i for i in shown if i not in target)))
        actions = MANUAL if self.name == "manual" else {**MANUAL, "role_playing": int(3 * uniform(*draw, "role"))}
        return RankedUser(
            user_id=request.user_id, ranking=steps[-1], llm_calls=2, prompt_digests=("a", "b"),
            actions=(actions, actions), shown_slots=shown, step_rankings=tuple(steps),
        )  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of one data set."""
    base = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        info = RunInfo(
            environment=Environment(
                command=f"promptailor evaluate --seed {seed} # {HOSTILE}",
                commit=f"c0ffee{seed}",
                model="planted:1",
                catalogue_digest=load_catalogue().digest,
            ),
            action_names={"role_playing": ("expert", "recommender", "psychologist")},
            learning_curves={"rpp": tuple(CurvePoint(epoch=e, calls=9 * e, mean_reward=0.5) for e in (1, 2))},
        )
        methods: list[Method] = [Identity(), TwoSteps("manual", 0.3, 0), TwoSteps("rpp", 0.8, seed)]
        evaluate(cases(), methods, [], base / f"seed-{seed}", seed=seed, info=info)
    return base


def row(runs: Path, label: str, method: str, seeds: Sequence[int] = (0, 1), **fields: Any) -> Row:
    found = tuple(RunMethod(folder=runs / f"seed-{seed}", method=method) for seed in seeds)
    return Row(label=label, runs={"ml-1m": found}, commands={"games": f"promptailor ablate {label}"}, **fields)


KINDS: tuple[ExhibitKind, ...] = (
    "bars",
    "cost",
    "learning",
    "headroom",
    "slots",
    "popularity",
    "sentences",
    "steps",
    "cases",
)


@pytest.fixture(scope="module")
def page(runs: Path) -> Page:
    rows = (
        row(runs, "Manual prompts", "manual"),
        row(runs, HOSTILE, "identity", (0,)),
        row(runs, "RPP", "rpp"),
        row(runs, "Best step", "rpp", upper_bound=True),
    )
    table = Exhibit(
        id="table-2",
        title=f"Table 2 {HOSTILE}",
        measures=("ndcg@1", "ndcg@10"),
        datasets=("ml-1m", "games"),
        rows=rows,
        compare=(("RPP", "Manual prompts"),),
        differs=HOSTILE,
        commands=(f"promptailor ablate {HOSTILE}",),
    )
    curve = Exhibit(
        id="figure-4",
        title="Figure 4",
        kind="curve",
        x_label="training users",
        rows=tuple(row(runs, f"RPP, {x}", "rpp", (seed,), series="RPP", x=x) for seed, x in enumerate((100, 200))),
    )
    others = tuple(Exhibit(id=kind, title=kind, kind=kind, rows=rows) for kind in KINDS)
    return Page(
        title=HOSTILE,
        about=HOSTILE,
        exhibits=(table, curve, *others),
        sheets=(Sheet(id="scaling", title="Scaling", head=("users", "seconds"), rows=(("10", HOSTILE),)),),
        datasets=(DatasetSize(name="ml-1m", n_users=6_040, n_items=3_706, n_interactions=1_000_209),),
        seconds=12.0,
    )


@pytest.fixture(scope="module")
def view(page: Page) -> PageView:
    return view_page(page)


@pytest.fixture(scope="module")
def written(page: Page, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page") / "new"
    write_page(folder, page)
    return folder


def section(view: PageView, section_id: str) -> Section:
    return next(s for s in view.sections if s.id == section_id)


def values(table: Table, label: str) -> list[str]:
    return [cell.text for line in table.lines if line.label == label for cell in line.cells]


def scores(runs: Path, method: str, seed: int, measure: str = "ndcg@10") -> dict[str, float]:
    lines = (runs / f"seed-{seed}" / "per_user.jsonl").read_text("utf-8").splitlines()
    return {r["user_id"]: r["metrics"][measure] for r in map(json.loads, lines) if r["method"] == method}


def test_several_seeds_are_a_mean_with_its_interval_over_users_and_spread_over_seeds(
    runs: Path, view: PageView
) -> None:
    means = [float(np.mean(list(scores(runs, "rpp", seed).values()))) for seed in (0, 1)]
    assert means[0] != means[1]
    line = next(line for line in section(view, "table-2").tables[0].lines if line.label == "RPP")
    cell = line.cells[1]
    assert cell.text == f"{np.mean(means):.3f}"
    assert cell.seeds == f"± {abs(means[0] - means[1]) / 2**0.5:.3f}, 2 seeds"
    low, high = map(float, re.findall(r"\d\.\d+", cell.small))
    assert low < np.mean(means) < high
    assert high - low > 0.02


def test_one_seed_is_what_its_report_says(runs: Path, view: PageView) -> None:
    report = json.loads((runs / "seed-0" / "report.json").read_text("utf-8"))
    found = report["methods"]["identity"]["ndcg@10"]
    line = next(line for line in section(view, "table-2").tables[0].lines if line.label == HOSTILE)
    cell = line.cells[1]
    assert (cell.text, cell.small) == (f"{found['mean']:.3f}", f"[{found['low']:.3f}, {found['high']:.3f}]")
    assert cell.seeds == ""


def test_the_papers_figures_stand_beside_ours(view: PageView) -> None:
    (sizes, *_), table = section(view, "table-1").tables, section(view, "table-2").tables[0]
    assert [cell.printed for cell in sizes.lines[0].cells] == ["6,040", "3,885", "1,000,210"]
    by_label = {line.label: [cell.printed for cell in line.cells] for line in table.lines}
    assert by_label["RPP"] == ["0.82 ± 0.03", "0.87 ± 0.02", "0.79 ± 0.03", "0.85 ± 0.02"]
    assert by_label[HOSTILE] == [""] * 4


def test_the_best_figure_stands_out_and_a_bound_never_does(view: PageView) -> None:
    table = section(view, "table-2").tables[0]
    best = {line.label: [cell.best for cell in line.cells] for line in table.lines}
    assert best.pop("RPP") == [True, True, False, False]
    assert not any(any(cells) for cells in best.values())
    bound = next(line for line in table.lines if line.upper_bound)
    assert bound.label == "Best step (upper bound)"
    assert values(table, bound.label)[:2] == values(table, "RPP")[:2]


def test_the_cheapest_is_no_winner(view: PageView) -> None:
    table = section(view, "cost").tables[0]
    assert table.head == ("NDCG@10", "calls per user", "seconds per user")
    best = [[cell.best for cell in line.cells] for line in table.lines]
    assert [any(column) for column in zip(*best, strict=True)] == [True, False, False]


def test_what_was_not_run_says_so_and_how_to_run_it(view: PageView) -> None:
    tables = section(view, "table-2").tables
    games = [cell for line in tables[0].lines for cell in line.cells[2:]]
    assert all(cell.missing and cell.text == "not run" and not cell.best for cell in games)
    missing = next(table for table in tables if table.caption.startswith("Not run: 4 of 8"))
    lacking = values(missing, "games")
    assert lacking[lacking.index("RPP") + 1] == "promptailor ablate RPP"
    assert len(lacking) == 2 * 4


def test_rows_that_one_command_makes_are_named_together() -> None:
    rows = tuple(
        Row(label=label, runs={}, commands={"games": command})
        for label, command in (("RPP", "ablate main"), ("RPP+", "ablate main"), ("GRIPS", "ablate other"))
    )
    (table,) = missing_table(Exhibit(id="t", title="T", datasets=("games",), rows=rows))
    assert values(table, "games") == ["RPP; RPP+", "ablate main", "GRIPS", "ablate other"]


def test_comparisons_are_paired_over_users_and_seeds(runs: Path, view: PageView) -> None:
    (finding,) = section(view, "table-2").findings
    manual, rpp = (
        {u: np.mean([scores(runs, m, s)[u] for s in (0, 1)]) for u in scores(runs, m, 0)} for m in ("manual", "rpp")
    )
    assert finding.comparison.difference == pytest.approx(np.mean([rpp[u] - manual[u] for u in manual]))
    assert (finding.outcome, finding.n_users, finding.n_seeds) == ("gain", N_USERS, 2)
    assert finding.printed == pytest.approx(0.87 - 0.41)
    assert view.summary == (
        "Planned comparisons: 1. Gains: 1. Losses: 0. No difference shown: 0.",
        "Of these, the paper has 1. Same direction here: 1. Reversed: 0. No difference shown here, or none printed: 0.",
    )


def test_every_run_is_named_with_its_command_and_commit(view: PageView) -> None:
    made_by = next(t for t in section(view, "table-2").tables if "command and commit" in t.caption)
    assert [line.label for line in made_by.lines] == ["seed-0", "seed-1"]
    assert values(made_by, "seed-1")[2:] == ["c0ffee1", f"promptailor evaluate --seed 1 # {HOSTILE}"]


def test_the_best_step_is_a_column_of_its_own_beside_what_was_served(runs: Path, view: PageView) -> None:
    table = section(view, "steps").tables[0]
    lines = (runs / "seed-0" / "per_user.jsonl").read_text("utf-8").splitlines()
    ranks = [r["step_ranks"] for r in map(json.loads, lines) if r["method"] == "rpp"]
    gains = 1 / np.log2(np.array(ranks) + 1.0)
    assert table.head[-1] == "best step (upper bound)"
    expected = [gains[:, 1].mean(), gains[:, 0].mean(), gains[:, 1].mean(), gains.max(axis=1).mean()]
    assert values(table, "RPP") == ["ml-1m", "2", *(f"{value:.3f}" for value in expected)]
    assert expected[-1] > expected[0]


def test_sentences_add_up_over_the_seeds(view: PageView) -> None:
    table = next(t for t in section(view, "sentences").tables if t.caption.startswith("RPP, ml-1m"))
    roles = [(line.label, int(line.cells[1].text)) for line in table.lines if line.cells[0].text == "role playing"]
    assert [label for label, _ in roles] == ["expert", "recommender", "psychologist"]
    assert sum(n for _, n in roles) == 2 * N_USERS


@pytest.mark.parametrize("datasets", [("games",), ()])
def test_nothing_run_is_said_and_no_error(datasets: tuple[str, ...]) -> None:
    exhibits = [
        Exhibit(id=kind, title=kind, kind=kind, datasets=datasets, rows=(Row(label="RPP", runs={}),))
        for kind in ("table", "curve", *KINDS)
    ]
    made = view_page(Page(title="Empty", exhibits=tuple(exhibits)))
    assert all(s.notes == ("Nothing of this was run yet.",) and not s.figures for s in made.sections)


class Parsed(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.ids: Counter[str] = Counter()
        self.attributes: list[tuple[str, str]] = []
        self.cells: list[str] = []
        self._cell = ""
        self._inside = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(name, value or "") for name, value in attrs]
        self.ids.update(value for name, value in attrs if name == "id" and value)
        if tag == "td":
            self._inside, self._cell = 1, ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "td":
            self.cells.append(self._cell)
            self._inside = 0

    def handle_data(self, data: str) -> None:
        if self._inside:
            self._cell += f" {data}"


def test_the_page_is_the_same_bytes_when_made_again(page: Page, written: Path, tmp_path: Path) -> None:
    write_page(tmp_path, page)
    for name in ("results.html", "results.md"):
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes()


def test_nothing_of_others_becomes_markup(written: Path) -> None:
    parsed = Parsed((written / "results.html").read_text("utf-8"))
    assert not parsed.tags.keys() & {"img", "script", "iframe", "link"}
    assert not [name for name, _ in parsed.attributes if name.startswith("on") or name == "src"]
    assert all(value.startswith("#") for name, value in parsed.attributes if name == "href")
    markdown = (written / "results.md").read_text("utf-8")
    plain = re.sub(r"`+[^`\n].*?`+ ?\n", "", markdown)  # quoted commands
    assert "<" not in re.sub(r"\\<", "", plain)
    assert "](" not in plain.replace("\\]", "").replace("\\[", "")


def test_ids_are_used_once_and_every_link_leads_somewhere(written: Path) -> None:
    parsed = Parsed((written / "results.html").read_text("utf-8"))
    assert [name for name, n in parsed.ids.items() if n > 1] == []
    assert {value[1:] for name, value in parsed.attributes if name == "href"} <= parsed.ids.keys()


def test_both_files_hold_the_same_figures(written: Path, view: PageView) -> None:
    parsed = Parsed((written / "results.html").read_text("utf-8"))
    html = Counter(number for cell in parsed.cells for number in re.findall(r"\d+\.\d{3}\b", cell))
    markdown = (written / "results.md").read_text("utf-8")
    table_rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert html == Counter(number for line in table_rows for number in re.findall(r"\d+\.\d{3}\b", line))
    assert sum(html.values()) > 150


def test_figures_are_drawn_for_every_kind(written: Path, view: PageView) -> None:
    kinds = {s.id: len(s.figures) for s in view.sections}
    drawn = {
        "figure-4": 1,
        "bars": 1,
        "cost": 1,
        "learning": 1,
        "slots": 1,
        "popularity": 1,
        "sentences": 3,
        "steps": 1,
    }
    assert {name: n for name, n in kinds.items() if n} == drawn
    assert (written / "results.html").read_text("utf-8").count("<svg ") == sum(drawn.values())


def test_success_and_failure_of_a_change_stand_side_by_side(written: Path) -> None:
    html = (written / "results.html").read_text("utf-8")
    assert re.search(r"The relevant item rose in \d+ rankings, fell in \d+ and stayed in \d+\.", html)
    assert "<mark>" in html


def test_a_run_with_other_sentences_is_refused(runs: Path, tmp_path: Path) -> None:
    catalogue = tmp_path / "own.yaml"
    catalogue.write_text("schema_version: 1\ncandidates: {text: 'Now rank these {items}:'}\n", "utf-8")
    rows = (row(runs, "Manual prompts", "manual"), row(runs, "RPP", "rpp"))
    exhibit = Exhibit(id="cases", title="Cases", kind="cases", rows=rows)
    with pytest.raises(InputError, match="seed-0: was made with another catalogue"):
        view_page(Page(title="Page", exhibits=(exhibit,), catalogue=catalogue))


def test_a_method_that_a_run_lacks_is_an_error_that_names_the_folder(runs: Path) -> None:
    exhibit = Exhibit(id="t", title="T", rows=(row(runs, "PPO", "ppo-1"),))
    with pytest.raises(InputError, match=r"seed-0: has no method 'ppo-1'; there are identity, manual, rpp"):
        view_page(Page(title="Page", exhibits=(exhibit,)))


def test_ids_labels_and_comparisons_are_checked(runs: Path) -> None:
    one = row(runs, "RPP", "rpp")
    with pytest.raises(ValueError, match="two rows are called 'RPP'"):
        Exhibit(id="t", title="T", rows=(one, one))
    with pytest.raises(ValueError, match="there is no row 'PPO'"):
        Exhibit(id="t", title="T", rows=(one,), compare=(("RPP", "PPO"),))
    exhibit = Exhibit(id="t", title="T", rows=(one,))
    with pytest.raises(ValueError, match="the id 't' is used twice"):
        Page(title="Page", exhibits=(exhibit, exhibit))
    with pytest.raises(ValueError, match="every row needs 2 cells"):
        Sheet(id="s", title="S", head=("a", "b"), rows=(("1",),))
