"""An evaluation of ratings from the files of a data set to the run's folder."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult

from promptailor.app.backends import connect
from promptailor.app.backends.ranking_chat import RankingChat
from promptailor.app.rating import RatingConfig, RatingEvaluation, run_rating
from promptailor.prompts.errors import DataError, InputError, SpecError

N_USERS, N_ITEMS, LENGTH = 80, 61, 7


class StubRater(RankingChat):
    """Gives every item 4, or 2 with a chance of a quarter; by first token, as models in this process do."""

    in_process: ClassVar[bool] = True

    @property
    def _llm_type(self) -> str:
        return "stub"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        assert kwargs["labels"] == ("1", "2", "3", "4", "5")
        told = {"label_log_probs": {"2": math.log(0.25), "4": math.log(0.75)}}
        return ChatResult(generations=[ChatGeneration(message=AIMessage("4\n2", response_metadata=told))])


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PROMPTAILOR_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(connect, "resolve_model", lambda spec, settings: StubRater())
    rows = [
        f"{user}\t{(7 * user + 11 * turn) % N_ITEMS}\t{1 + (user + turn) % 5}\t{turn}"
        for user in range(N_USERS)
        for turn in range(LENGTH)
    ]
    (tmp_path / "toy.inter").write_text("\n".join(["user_id\titem_id\trating\ttimestamp", *rows]) + "\n", "utf-8")
    items = [f"{n}\tTitle {n}" for n in range(N_ITEMS)]
    (tmp_path / "toy.item").write_text("\n".join(["item_id\ttitle", *items]) + "\n", "utf-8")
    layout = {
        "name": "atomic",
        "interactions": {"file": "toy.inter", "rating": "rating"},
        "items": {"file": "toy.item"},
    }
    path = tmp_path / "toy.yaml"
    path.write_text(yaml.safe_dump({"name": "toy", "domain": "movies", "time": "order", "layouts": [layout]}), "utf-8")
    return str(path)


def run(dataset: str, out: Path, *, resume: bool = False, **settings: Any) -> RatingEvaluation:
    defaults: dict[str, Any] = {"model": "openai:stub", "train_users": 10, "calls": 60}
    return run_rating(RatingConfig(dataset=dataset, **(defaults | settings)), out, resume=resume)


def test_a_run_measures_every_method_on_the_same_users(dataset: str, tmp_path: Path) -> None:
    methods = ("global-mean", "user-mean", "item-mean", "bias", "manual", "enumeration")
    done = run(dataset, tmp_path / "run", methods=methods)
    assert tuple(done.report.methods) == methods
    records = [json.loads(line) for line in (tmp_path / "run" / "per_user.jsonl").read_text("utf-8").splitlines()]
    for name, result in done.report.methods.items():
        own = [record for record in records if record["method"] == name]
        assert [record["user_id"] for record in own] == list(done.report.test_users)
        squares = [(record["prediction"] - record["rating"]) ** 2 for record in own]
        assert result.rmse.mean == pytest.approx(math.sqrt(sum(squares) / len(squares)))
        assert result.llm_calls == (len(own) if name in ("manual", "enumeration") else 0)
    assert {r["prediction"] for r in records if r["method"] == "manual"} == {3.5}  # the expectation, not the mode
    assert not set(done.report.train_users) & set(done.report.test_users)
    assert json.loads((tmp_path / "run" / "ratings.json").read_text("utf-8"))["methods"].keys() == set(methods)
    page = (tmp_path / "run" / "ratings.md").read_text("utf-8")
    assert "| enumeration |" in page
    assert "60 trials" in page


def test_a_repeat_is_free_and_the_same(dataset: str, tmp_path: Path) -> None:
    methods = ("manual", "enumeration")
    first = run(dataset, tmp_path / "run", methods=methods)
    with pytest.raises(InputError, match="pass --resume"):
        run(dataset, tmp_path / "run", methods=methods)
    again = run(dataset, tmp_path / "run", methods=methods, resume=True)
    assert again.spent == first.spent
    assert again.report.methods == first.report.methods
    with pytest.raises(InputError, match="seed was 0 and is 1"):
        run(dataset, tmp_path / "run", methods=methods, seed=1, resume=True)


def test_a_spent_budget_leaves_an_incomplete_report_that_a_larger_one_completes(dataset: str, tmp_path: Path) -> None:
    methods = ("user-mean", "manual")
    cut = run(dataset, tmp_path / "run", methods=methods, budget="calls=5")
    assert not cut.complete
    assert cut.spent.calls == 5
    assert tuple(cut.report.methods) == ("user-mean",)
    whole = run(dataset, tmp_path / "run", methods=methods, budget="calls=100", resume=True)
    assert whole.complete
    assert whole.spent.calls == len(whole.report.test_users)


def test_baselines_need_no_model(dataset: str, tmp_path: Path) -> None:
    done = run(dataset, tmp_path / "run", methods=("bias",), model=None)
    assert done.report.model is None
    assert done.spent.calls == 0
    assert not done.report.train_users


def test_errors_name_the_fix_and_leave_no_folder(dataset: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="'rpp': unknown for ratings; there are global-mean"):
        RatingConfig.parse_methods("manual,rpp")
    with pytest.raises(DataError, match="--users 999"):
        run(dataset, tmp_path / "run", users=999)
    unrated = tmp_path / "unrated.yaml"
    unrated.write_text(Path(dataset).read_text("utf-8").replace("rating: rating", "timestamp: timestamp"), "utf-8")
    with pytest.raises(DataError, match="toy: has no ratings"):
        run(str(unrated), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()
