"""The API end to end in one process: answers, conversations, votes, explanations, forgetting, and what is refused."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

pytest.importorskip("sqlalchemy", reason="the extra `serve` is not installed")

from pydantic import SecretStr

from promptailor.app.server.conversation import agreements
from promptailor.app.server.feedback_store import VotedAnswer, open_feedback
from promptailor.app.server.guard import Limits, RedactingFilter
from promptailor.app.server.opening import Loaded
from promptailor.app.server.serve import ServerConfig, run_server
from promptailor.app.server.service import Service
from promptailor.app.settings import Settings
from promptailor.graph.state import RankOutput
from promptailor.prompts.errors import InputError, ModelCallError
from tests.unit.app.server.conftest import Site, events

ITEMS = [{"item_id": str(n), "title": f"Title {n}"} for n in range(1, 7)]
REQUEST: dict[str, Any] = {"user_id": "ann@example.org", "history": ITEMS[:2], "candidates": ITEMS[2:]}


def kept(site: Site) -> list[VotedAnswer]:
    with open_feedback(site.settings) as store:
        return list(store.read())


def test_an_answer_is_the_graphs_own_and_can_be_voted_on_explained_and_forgotten(site: Site) -> None:
    async def visit(client: httpx.AsyncClient) -> None:
        ranked = await client.post("/api/rank", json=REQUEST)
        output = RankOutput.model_validate(ranked.json())
        answer_id = ranked.headers["X-Answer-Id"]
        assert sorted(item.item_id for item in output.items) == ["3", "4", "5", "6"]
        best = output.items[0].item_id
        for vote in ("down", "up"):
            voted = await client.post("/api/feedback", json={"answer_id": answer_id, "item_id": best, "vote": vote})
            assert voted.status_code == 204
        [row] = [row for row in kept(site) if row.answer_id == answer_id]
        assert row.votes == {best: 1}
        assert (row.reward, row.propensity) == (1.0, None)
        assert (row.policy, row.prompt_digest) == ("manual", output.steps[-1].prompt_digest)
        assert row.ranking == tuple(item.item_id for item in output.items)
        assert [item.item_id for item in row.history] == ["1", "2"]
        assert "ann" not in row.model_dump_json()

        explained = await client.post("/api/explain", json={"answer_id": answer_id})
        assert explained.status_code == 200
        assert [item["item_id"] for item in explained.json()["items"]] == list(row.ranking)
        other = await client.post("/api/explain", json={"request": REQUEST})
        assert other.json()["effects"] == explained.json()["effects"]

        forgotten = await client.delete("/api/users/ann%40example.org")
        assert forgotten.json()["answers"] >= 1
        assert all(row.answer_id != answer_id for row in kept(site))
        for path, body in (
            ("/api/explain", {"answer_id": answer_id}),
            ("/api/feedback", {"answer_id": answer_id, "item_id": best, "vote": "up"}),
        ):
            refused = await client.post(path, json=body)
            assert (refused.status_code, refused.json()["field"]) == (422, "answer_id")

    site.visit(visit)


def test_a_vote_can_be_taken_back_and_is_only_for_items_that_were_shown(site: Site) -> None:
    async def visit(client: httpx.AsyncClient) -> None:
        ranked = await client.post("/api/rank", json=REQUEST | {"user_id": 7})
        body = {"answer_id": ranked.headers["X-Answer-Id"], "item_id": "3"}
        for vote in ("up", None):
            assert (await client.post("/api/feedback", json=body | {"vote": vote})).status_code == 204
        refused = await client.post("/api/feedback", json=body | {"item_id": "1", "vote": "up"})
        assert (refused.status_code, refused.json()["field"]) == (422, "item_id")
        assert [row.votes for row in kept(site) if row.answer_id == body["answer_id"]] == [{}]

    site.visit(visit)


def test_a_conversation_streams_every_step_and_goes_on(site: Site) -> None:
    async def visit(client: httpx.AsyncClient) -> None:
        [user, *_] = (await client.get("/api/users")).json()["users"]
        title = user["recent"][0]
        turn = {"user_id": user["user_id"], "message": f"something like {title}"}
        told = events(await client.post("/api/chat", json=turn))
        names = [name for name, _ in told]
        assert names == ["conversation", "understanding", "candidates", "step", "ranking", "message", "done"]
        by_name = dict(told)
        assert by_name["understanding"]["like"] == [title]
        assert by_name["candidates"]["n_history"] == user["n_history"]
        step = by_name["step"]
        assert step["view"]["choices"]["role_playing"]["sentence"] == step["system"]
        items = by_name["ranking"]["items"]
        shown = {item["item_id"] for item in by_name["candidates"]["candidates"]}
        assert {item["item_id"] for item in items} == shown
        assert [item["rank"] for item in items] == [*range(1, len(items) + 1)]
        assert all(item["reason"] for item in items)
        assert items[0]["title"] in by_name["message"]["text"]
        vote = {"answer_id": by_name["ranking"]["answer_id"], "item_id": items[0]["item_id"], "vote": "up"}
        assert (await client.post("/api/feedback", json=vote)).status_code == 204

        conversation = by_name["conversation"]["conversation"]
        more = {**turn, "message": "something else", "conversation": conversation}
        again = dict(events(await client.post("/api/chat", json=more)))
        assert again["conversation"]["conversation"] == conversation
        assert shown.isdisjoint(item["item_id"] for item in again["ranking"]["items"])

        # Nobody else can read or continue it: the thread's name has the user in it.
        stranger = dict(events(await client.post("/api/chat", json={**more, "user_id": "stranger"})))
        assert stranger["understanding"]["like"] == []

        forgotten = (await client.delete(f"/api/users/{user['user_id']}")).json()
        assert forgotten["conversations"] == 1
        assert forgotten["answers"] >= 2
        fresh = dict(events(await client.post("/api/chat", json=more)))
        assert fresh["understanding"]["like"] == []

    site.visit(visit)


def test_answers_and_conversations_live_where_the_settings_say(loaded: Loaded, url: str, tmp_path: Path) -> None:
    """In one database, which another server on another machine goes on with."""
    turn = {"user_id": "ann", "message": "surprise me"}

    def server(name: str) -> Site:
        home = tmp_path / name
        (home / "served").mkdir(parents=True)
        settings = Settings(PROMPTAILOR_HOME=home, PROMPTAILOR_DATABASE=url, PROMPTAILOR_PSEUDONYM_KEY="k")
        if url.startswith("sqlite"):
            settings = settings.model_copy(update={"checkpointer": SecretStr(f"sqlite:///{tmp_path / 'c.sqlite'}")})
        return Site(replace(loaded, settings=settings))

    async def begin(client: httpx.AsyncClient) -> dict[str, Any]:
        return dict(events(await client.post("/api/chat", json=turn)))

    first = server("one").visit(begin)
    shown = {item["item_id"] for item in first["ranking"]["items"]}

    async def go_on(client: httpx.AsyncClient) -> None:
        more = {**turn, "message": "something else", "conversation": first["conversation"]["conversation"]}
        again = dict(events(await client.post("/api/chat", json=more)))
        assert shown.isdisjoint(item["item_id"] for item in again["ranking"]["items"])
        assert (await client.delete("/api/users/ann")).json() == {"answers": 2, "conversations": 1}

    server("two").visit(go_on)


REFUSED: list[tuple[str, Any, int, str | None]] = [
    ("rank", b"{", 400, None),
    ("rank", b"\xff\xfe", 400, None),
    ("rank", b"[]", 422, None),
    ("rank", b"[" * 100_000, 400, None),
    ("rank", {}, 422, "user_id"),
    ("rank", REQUEST | {"user_id": "x" * 201}, 422, "user_id"),
    ("rank", REQUEST | {"user_id": 10**30}, 422, "user_id"),
    ("rank", REQUEST | {"user_id": "\ud800"}, 422, "user_id"),
    ("rank", REQUEST | {"candidates": ITEMS[:1]}, 422, "candidates"),
    ("rank", REQUEST | {"candidates": ITEMS[:1] * 2}, 422, "candidates"),
    ("rank", REQUEST | {"candidates": ITEMS * 50}, 422, "candidates"),
    ("rank", REQUEST | {"history": ITEMS * 200}, 422, "history"),
    ("rank", REQUEST | {"history": ["no such item"]}, 422, "history"),
    ("rank", REQUEST | {"history": [{"item_id": "1"}]}, 422, "history.0.title"),
    ("rank", REQUEST | {"domain": "no such domain"}, 422, None),
    ("rank", REQUEST | {"relevant_item_ids": ["3"]}, 422, "relevant_item_ids"),
    ("chat", {"user_id": "u", "message": ""}, 422, "message"),
    ("chat", {"user_id": "u", "message": "x" * 2_001}, 422, "message"),
    ("chat", {"user_id": "u", "message": "x", "conversation": "../../etc/passwd"}, 422, "conversation"),
    ("explain", {}, 422, None),
    ("explain", {"answer_id": "0" * 32}, 422, "answer_id"),
    ("feedback", {"answer_id": "0" * 32, "item_id": "3", "vote": "sideways"}, 422, "vote"),
    ("feedback", {"answer_id": "0" * 32, "item_id": "\x00", "vote": "up"}, 422, "item_id"),
]
"""Route, body, status, and the field that the answer names."""


def test_what_cannot_be_served_is_one_line_that_names_the_field(site: Site) -> None:
    async def visit(client: httpx.AsyncClient) -> list[httpx.Response]:
        return [
            await client.post(
                f"/api/{path}",
                content=body if isinstance(body, bytes) else json.dumps(body),
                headers={"Content-Type": "application/json"},
            )
            for path, body, _, _ in REFUSED
        ]

    for response, (path, body, status, field) in zip(site.visit(visit), REFUSED, strict=True):
        problem = response.json()
        assert (response.status_code, problem["field"]) == (status, field), (path, body, problem)
        assert problem["detail"]
        assert "\n" not in problem["detail"]
        assert "Traceback" not in response.text
        assert problem["request_id"] == response.headers["X-Request-Id"]


def test_a_page_elsewhere_cannot_post_what_a_form_may(site: Site) -> None:
    """Browsers send forms across origins without asking; JSON they do not."""

    async def visit(client: httpx.AsyncClient) -> list[httpx.Response]:
        content = json.dumps(REQUEST)
        kinds = ("text/plain", "application/x-www-form-urlencoded", "")
        return [await client.post("/api/rank", content=content, headers={"Content-Type": kind}) for kind in kinds]

    responses = site.visit(visit)
    assert [response.status_code for response in responses] == [415] * 3
    assert all("Access-Control-Allow-Origin" not in response.headers for response in responses)


def test_every_response_is_guarded(site: Site) -> None:
    async def visit(client: httpx.AsyncClient) -> list[httpx.Response]:
        return [await client.get(path) for path in ("/", "/static/app.js", "/health", "/no-such-page", "/api/users")]

    page, script, health, missing, users = site.visit(visit)
    for response in (page, script, health, missing, users):
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["X-Frame-Options"] == "DENY"
    assert page.headers["content-type"].startswith("text/html")
    assert "<script>" not in page.text
    assert " style=" not in page.text
    assert " onclick=" not in page.text
    assert script.headers["content-type"].startswith("text/javascript")
    assert health.json() == {"status": "ok", "model": "planted:1", "policy": "manual"}
    assert missing.status_code == 404
    assert users.headers["Cache-Control"] == "no-store"


TRAVERSALS = (
    "/static/../service.py",
    "/static/..%2fservice.py",
    "/static/%2e%2e/service.py",
    "/static/....//service.py",
    "/static//etc/passwd",
    "/static/%2fetc%2fpasswd",
    "/static/..%5cservice.py",
    "/static/app.js%00.html",
    "/static/",
    "/static/index.html",
    "/api/users/../../etc/passwd",
)


def test_no_path_reaches_the_disk(site: Site) -> None:
    async def visit(client: httpx.AsyncClient) -> list[httpx.Response]:
        return [await client.send(client.build_request("GET", f"http://server{path}")) for path in TRAVERSALS]

    assert [r.status_code for r in site.visit(visit)] == [404] * len(TRAVERSALS)


def test_a_body_is_bounded_however_it_comes(loaded: Loaded) -> None:
    site = Site(loaded, Limits(body_bytes=1_000, body_s=0.2))

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 100

    async def trickle() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" "
            await asyncio.sleep(0.1)

    async def visit(client: httpx.AsyncClient) -> list[httpx.Response]:
        json_type = {"Content-Type": "application/json"}
        return [
            await client.post("/api/rank", content=content, headers=json_type)
            for content in (b" " * 1_001, chunks(), trickle())
        ]

    assert [response.status_code for response in site.visit(visit)] == [413, 413, 408]


def test_requests_beyond_the_limit_are_told_to_come_again(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    async def slow(service: Service, request: Any) -> Any:
        await asyncio.sleep(0.2)
        raise ModelCallError("the key sk-abcdefghijkl was refused")

    monkeypatch.setattr(Service, "rank", slow)
    site = Site(loaded, Limits(at_once=2, answer_s=5))

    async def visit(client: httpx.AsyncClient) -> list[httpx.Response]:
        return await asyncio.gather(*(client.post("/api/rank", json=REQUEST) for _ in range(4)))

    responses = site.visit(visit)
    assert sorted(response.status_code for response in responses) == [502, 502, 503, 503]
    assert all("sk-" not in response.text for response in responses)
    assert {r.headers.get("Retry-After") for r in responses if r.status_code == 503} == {"1"}


def test_an_answer_that_takes_too_long_and_a_fault_of_ours_are_one_line(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def late(service: Service, request: Any) -> Any:
        await asyncio.sleep(5)

    async def broken(service: Service, answer_id: Any, request: Any) -> Any:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(Service, "rank", late)
    monkeypatch.setattr(Service, "explain", broken)
    site = Site(loaded, Limits(answer_s=0.1))

    async def visit(client: httpx.AsyncClient) -> tuple[httpx.Response, httpx.Response]:
        return await client.post("/api/rank", json=REQUEST), await client.post(
            "/api/explain", json={"request": REQUEST}
        )

    slow, failed = site.visit(visit)
    assert (slow.status_code, failed.status_code) == (504, 500)
    assert failed.json()["detail"] == "the server failed (RuntimeError)"
    assert "secret detail" not in failed.text
    assert failed.headers["Content-Security-Policy"]
    assert failed.headers["X-Request-Id"] in caplog.text


def test_metrics_count_without_naming_anybody(site: Site) -> None:
    async def visit(client: httpx.AsyncClient) -> str:
        await client.post("/api/rank", json=REQUEST)
        await client.delete("/api/users/ann%40example.org")
        await client.get("/metrics")
        return (await client.get("/metrics")).text

    text = site.visit(visit)
    assert 'promptailor_answers_total{policy="manual"} 1.0' in text
    assert 'promptailor_request_seconds_count{method="DELETE",route="/api/users/{user_id}",status="200"} 1.0' in text
    assert "process_resident_memory_bytes" in text
    assert "ann" not in text.replace("manual", "")


def test_logs_hold_no_key_and_no_user(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        site.request("DELETE", "/api/users/ann%40example.org")
    ours = "\n".join(r.getMessage() for r in caplog.records if r.name.startswith("promptailor"))
    assert "DELETE /api/users/{user_id} 200" in ours
    assert "ann" not in ours
    try:
        raise ModelCallError("sk-abcdefghijkl was refused")
    except ModelCallError:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "key %s", ("sk-abcdefghijkl",), sys.exc_info())
    RedactingFilter().filter(record)
    assert "sk-" not in logging.Formatter().format(record)


def test_agreement_is_how_near_the_steps_put_an_item_to_its_place() -> None:
    assert agreements([["a", "b", "c"]], ["a", "b", "c"]) == {}
    found = agreements([["a", "b", "c"], ["a", "c", "b"]], ["a", "b", "c"])
    assert found == {"a": 1.0, "b": 0.75, "c": 0.75}


def test_an_address_that_is_taken_and_a_policy_that_is_not_there_are_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(InputError, match="name another port, or 0"):
        run_server(ServerConfig(model="planted:1"), port=taken.getsockname()[1], ready=print)
    with pytest.raises(InputError, match="no such file; name the folder of a `promptailor train` run"):
        run_server(ServerConfig(model="planted:1", policies=f"rpp={tmp_path}"), port=0, ready=print)
