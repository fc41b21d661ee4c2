from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from promptailor.evals.baselines.order import Identity, Random
from promptailor.evals.decomposition import RewardMatrices, decompose
from promptailor.evals.render import to_html, to_markdown, write_report
from promptailor.evals.report import CurvePoint, Environment, EvalReport, RunInfo, read_learning_curve, read_report
from promptailor.evals.runner import evaluate
from promptailor.evals.statistics import Comparison
from promptailor.evals.summary import verdict
from promptailor.evals.types import EvalCase
from promptailor.prompts.errors import InputError

HOSTILE = 'rpp@<img src=http://evil.example/x onerror=alert(1)> {{ 7*7 }} $\\frac{1}$ | "quoted" &amp;'


class Page(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.ids: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids.update(value for name, value in attrs if name == "id" and value)
        if tag not in ("meta", "path", "use"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("meta", "path", "use"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_cases: Callable[..., list[EvalCase]], scripted: Any) -> Path:
    """A run with everything: methods, controls, decomposition, learning curve, hostile names."""
    path = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(0)
    segments, validation_segments = np.arange(100) % 2, np.arange(50) % 2
    truth = np.array([[0.4, 0.6, 0.5], [0.7, 0.3, 0.5]])
    rewards = truth[segments] + rng.normal(0, 0.05, (100, 3))
    decomposition = decompose(
        RewardMatrices(
            rewards=rewards,
            fresh=truth[segments] + rng.normal(0, 0.05, (100, 3)),
            segments=segments,
            policy=rewards.max(axis=1) - 0.05,
            validation=truth[validation_segments] + rng.normal(0, 0.05, (50, 3)),
            validation_segments=validation_segments,
        ),
        seed=0,
    )
    info = RunInfo(
        environment=Environment(
            command="promptailor evaluate --dataset '<b>mine</b>'",
            commit="0123abc",
            model="planted:1",
            dataset="<b>mine</b>",
            catalogue_digest="feedbeef",
            versions={"promptailor": "0.1.0"},
            settings={"n_candidates": 10},
        ),
        validation_users=("v1", "v2"),
        action_names={"role_playing": ("expert", "critic", "<i>third</i>")},
        decomposition=decomposition,
        learning_curves={
            "rpp": tuple(CurvePoint(epoch=e, calls=10 * e, mean_reward=0.5, validation=0.5) for e in range(3))
        },
    )
    methods = [Identity(), scripted("manual", 0.4), scripted(HOSTILE, 0.7, train_users=["t1"])]
    evaluate(make_cases(100), methods, [Random(0)], path, seed=0, info=info)
    return path


@pytest.fixture
def report(folder: Path) -> EvalReport:
    return read_report(folder)


def test_the_json_has_what_programs_rely_on(folder: Path) -> None:
    found = json.loads((folder / "report.json").read_text("utf-8"))
    assert {"methods", "controls", "decomposition", "paired", "split", "environment"} <= set(found)
    for result in (*found["methods"].values(), *found["controls"].values()):
        assert set(result["ndcg@10"]) == {"mean", "low", "high"}
        assert {"ndcg@1", "ndcg@5", "mrr@5", "mrr@10", "hr@1", "hr@5"} <= set(result)
        assert {"n_users", "llm_calls", "invalid_rate", "seconds"} <= set(result)
    parts = ("best_single", "per_segment", "policy", "oracle", "oracle_corrected", "share_of_headroom")
    assert all(set(found["decomposition"][part]) == {"mean", "low", "high"} for part in parts)
    assert set(found["paired"][0]) == {"a", "b", "difference", "low", "high", "p", "p_holm", "mde", "planned"}
    assert found["split"]["train_users"] == ["t1"]
    assert found["split"]["validation_users"] == ["v1", "v2"]
    assert len(found["split"]["test_users"]) == 100
    assert found["split"]["warm_users"] == []
    assert found["environment"]["seed"] == 0
    assert found["environment"]["commit"] == "0123abc"


def test_counts_and_slots_follow_from_the_records(folder: Path, report: EvalReport) -> None:
    rows = [json.loads(line) for line in (folder / "per_user.jsonl").read_text("utf-8").splitlines()]
    own = [row for row in rows if row["method"] == "manual"]
    roles = Counter(row["actions"][-1]["role_playing"] for row in own)
    names = ["expert", "critic", "<i>third</i>"]
    assert {s.label: s.n_users for s in report.sentences["manual"]["role_playing"]} == {
        names[k]: n for k, n in roles.items()
    }
    assert [(s.label, s.n_users) for s in report.sentences["manual"]["history_length"]] == [("2", 100)]
    assert "history_records" not in report.sentences["manual"]
    assert "identity" not in report.sentences

    profile = report.slot_profiles["manual"]
    assert profile.order == "shown"
    for place in profile.slots:
        scores = [row["metrics"]["ndcg@10"] for row in own if row["shown_slot"] == place.slot]
        assert place.n_users == len(scores)
        assert place.score.mean == pytest.approx(np.mean(scores))
    assert report.slot_profiles["identity"].order == "canonical"
    assert [s.score.mean for s in report.slot_profiles["identity"].slots] == pytest.approx(
        1 / np.log2(np.arange(2, 12))
    )


def test_every_pair_of_methods_is_compared_once_with_references_subtracted(report: EvalReport) -> None:
    assert [(c.a, c.b) for c in report.paired] == [("manual", "identity"), (HOSTILE, "identity"), (HOSTILE, "manual")]
    assert len(report.verdicts) == 2  # the decomposition's, and the learned method against the manual prompt
    assert report.verdicts[1].startswith(f"{HOSTILE} minus manual: ")


def test_planned_comparisons_are_a_family_of_their_own(
    tmp_path: Path, make_cases: Callable[..., list[EvalCase]], scripted: Any
) -> None:
    methods = [Identity(), Random(0), scripted("manual", 0.4), scripted("rpp", 0.5), scripted("rpp@paper", 0.45)]
    planned = (("rpp", "rpp@paper"), ("rpp", "absent"))
    report = evaluate(make_cases(60), methods, [], tmp_path, seed=0, info=RunInfo(comparisons=planned))
    first, *rest = report.paired
    assert (first.a, first.b, first.planned) == ("rpp", "rpp@paper", True)
    assert first.p_holm == first.p  # one comparison, nothing to correct for
    assert len(rest) == 9
    assert not any(c.planned for c in rest)
    assert report.headlines == (first,)
    assert report.verdicts == (verdict(first),)


@pytest.mark.parametrize(
    ("difference", "p_holm", "ending"),
    [
        (
            0.003,
            1.0,
            "(1 after Holm's correction): no gain shown;"
            " the smallest gain this run could have shown (80 % power) is 0.020.",
        ),
        (0.05, 0.01, "(0.01 after Holm's correction): a gain is shown."),
        (-0.05, 0.01, "(0.01 after Holm's correction): a loss is shown."),
    ],
)
def test_verdicts_are_honest(difference: float, p_holm: float, ending: str) -> None:
    found = verdict(
        Comparison(a="rpp", b="manual", difference=difference, low=-0.01, high=0.016, p=0.6, p_holm=p_holm, mde=0.02)
    )
    assert found == f"rpp minus manual: {difference:+.3f} [-0.010, +0.016], p = 0.6 {ending}"


def test_the_page_is_one_self_contained_file_that_nothing_can_break_out_of(folder: Path) -> None:
    source = (folder / "report.html").read_text("utf-8")
    page = Page(source)
    assert page.open == []  # every element is closed, in order
    assert not {"script", "img", "link", "iframe"} & set(page.tags)
    assert not [a for a in page.attributes if a[1].startswith("on")]
    assert all(value.startswith("#") for _, name, value in page.attributes if name in ("href", "src", "xlink:href"))
    assert "url(http" not in source
    assert "@import" not in source
    assert [id for id, count in page.ids.items() if count > 1] == []
    assert "7*7" in page.text  # shown, not evaluated
    assert HOSTILE in page.text
    assert "prefers-color-scheme: dark" in source
    assert page.tags["svg"] == 7  # quality, paired, decomposition, slots, two methods' sentences, learning
    assert all("aria-label" in svg for svg in re.findall(r"<svg[^>]*>", source))
    assert not re.search(r"#0[1-5]0[1-5]0[1-5]", source)  # every placeholder colour was replaced


def test_the_page_shows_the_numbers_and_how_to_make_them_again(folder: Path, report: EvalReport) -> None:
    text = Page((folder / "report.html").read_text("utf-8")).text
    for result in (*report.methods.values(), *report.controls.values()):
        assert f"{result.primary.mean:.3f}" in text
        assert f"[{result.primary.low:.3f}, {result.primary.high:.3f}]" in text
    for fact in (
        "promptailor evaluate --dataset '<b>mine</b>'",
        "0123abc",
        "planted:1",
        "feedbeef",
        "promptailor 0.1.0",
    ):
        assert fact in text
    assert all(sentence in text for sentence in report.verdicts)


def test_sections_without_data_are_left_out(report: EvalReport) -> None:
    bare = EvalReport(
        methods={}, chance={}, split=report.split, environment=Environment(), incomplete="nothing <was> done"
    )
    page = Page(to_html(bare))
    assert page.tags["svg"] == 0
    assert "nothing <was> done" in page.text
    for heading in ("Methods", "Paired", "Where the gain", "slot", "sentences", "Learning", "Null controls"):
        assert heading not in page.text.replace("Evaluation of 0 methods", "")


def test_markdown_tables_keep_their_shape(report: EvalReport) -> None:
    text = to_markdown(report)
    assert "<img" not in text
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
        assert len(widths) == 1
    assert f"| manual | {report.methods['manual'].measures['ndcg@1'].mean:.3f}" in text
    assert "0123abc" in text


def test_without_the_drawing_extra_the_rest_is_written(
    tmp_path: Path, report: EvalReport, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    write_report(tmp_path, report)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json", "report.md"]
    assert "pip install 'promptailor[baselines]'" in caplog.text


def test_a_report_survives_being_read_back_and_drawn_again(tmp_path: Path, folder: Path, report: EvalReport) -> None:
    write_report(tmp_path, report)
    for name in ("report.json", "report.md", "report.html"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_a_missing_or_damaged_report_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"report.json does not exist; give the folder"):
        read_report(tmp_path)
    (tmp_path / "report.json").write_text('{"methods": 3}')
    with pytest.raises(InputError, match=r"report\.json: methods"):
        read_report(tmp_path)


def test_a_learning_curve_is_read_from_training_rows(tmp_path: Path) -> None:
    path = tmp_path / "training.jsonl"
    rows = [
        {"epoch": 0, "calls": 5, "mean_reward": 0.4, "entropy": 1.1},
        {"epoch": 1, "calls": 9, "mean_reward": 0.5, "validation": 0.6},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [(p.calls, p.validation) for p in read_learning_curve(path)] == [(5, None), (9, 0.6)]
    path.write_text('{"epoch": 0}\n')
    with pytest.raises(InputError, match=r"training\.jsonl"):
        read_learning_curve(path)
