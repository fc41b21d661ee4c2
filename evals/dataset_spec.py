"""What makes a folder of files a data set: a YAML spec, checked on load.

A data set is data, never a branch in code: files, columns, clean-up rules, domain, protocol constants, sources.
"""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Literal, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from promptailor.evals.tables import ColumnNames, TableSpec
from promptailor.prompts.domain import Model
from promptailor.prompts.errors import DataError
from promptailor.prompts.patterns import Catalogue, load_catalogue

TimeKind = Literal["global", "order", "none"]
"""What the sort column is worth. `global`: real times, comparable between users. `order`: only the order within a user.
`none`: no time at all, such as a play count; "last" then means "highest"."""


class Substitution(Model):
    """A clean-up rule: a regular expression and what replaces its match."""

    pattern: str
    replacement: str

    @model_validator(mode="after")
    def _compiles(self) -> Self:
        try:
            re.sub(self.pattern, self.replacement, "")
        except re.error as error:
            raise ValueError(f"{self.pattern!r} -> {self.replacement!r}: {error}") from None
        return self


class Categories(Model):
    """Where an item's categories stand: in one column with a separator, or in one 0/1 column each."""

    column: ColumnNames | None = None
    separator: str = Field(",", min_length=1)
    flags: tuple[str, ...] = ()
    """Columns that hold `1` where the category of that name applies."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.column is None) == (not self.flags):
            raise ValueError("give either `column` or `flags`")
        return self


class InteractionTable(TableSpec):
    """The file with one row per interaction."""

    user_id: ColumnNames = ("user_id",)
    item_id: ColumnNames = ("item_id",)
    timestamp: ColumnNames | None = ("timestamp",)
    """What a user's rows are sorted by; None keeps file order."""
    rating: ColumnNames | None = None
    """How much the user liked it; rankings make no use of it."""


class ItemTable(TableSpec):
    """The file with one row per item."""

    item_id: ColumnNames = ("item_id",)
    title: ColumnNames = ("title",)
    categories: Categories | None = None
    year: ColumnNames | None = None
    """A column with the year of release; where a cell has none, a year in brackets in the title counts."""


class UserTable(TableSpec):
    """The file with one row per user."""

    user_id: ColumnNames = ("user_id",)
    gender: ColumnNames | None = None
    age: ColumnNames | None = None
    occupation: ColumnNames | None = None
    values: dict[Literal["gender", "age", "occupation"], dict[str, str | None]] = Field(default_factory=dict)
    """What coded values mean (null: unknown); a value that is not listed stands for itself."""


class Layout(Model):
    """One edition of a data set's files."""

    name: str
    interactions: InteractionTable
    items: ItemTable
    users: UserTable | None = None
    time: TimeKind | None = None
    """Where this edition's times are worth something else than the spec says."""

    @property
    def files(self) -> tuple[str, ...]:
        """Names of the files that must all be there."""
        tables: tuple[TableSpec | None, ...] = (self.interactions, self.items, self.users)
        return tuple(table.file for table in tables if table is not None)


class Source(Model):
    """An archive the files can be taken from."""

    name: str
    kind: Literal["zip", "wheel"]
    location: str
    """The URL of a zip, or a pinned requirement on the user's package index, such as `recbole==1.2.1`."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Of the archive."""
    members: tuple[str, ...] = Field(min_length=1)
    """Paths in the archive; each goes into the data set's folder under its last part."""


class DatasetSpec(Model):
    """Everything that makes a folder of files a data set."""

    name: str = Field(min_length=1)
    about: str = ""
    """Whose data they are, their terms, and what to know before believing a number measured on them."""
    domain: str
    """Name of a word list in the catalogue's domains."""
    folder: str = "."
    """Folder of the files under the data folder (beside the spec, for a spec in a file); letter case is ignored."""
    time: TimeKind
    k_core: int = Field(5, ge=0)
    """Users and items with fewer interactions are dropped until none is left."""
    split_seed: int = 0
    """Fixes who is a training, a validation and a test user."""
    unescape_html: bool = False
    """Whether `&amp;` and its kin in titles and categories are written out."""
    title_cleanup: tuple[Substitution, ...] = ()
    layouts: tuple[Layout, ...] = ()
    """Editions of the files; the first whose files are all there is read."""
    sources: tuple[Source, ...] = ()
    """Where `data get` may take the files from, in the order tried."""
    digest: str | None = None
    """`Dataset.digest` of the published files; every source and edition gives the same."""

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not re.fullmatch(r"[\w.+-]+", name):
            raise ValueError(f"{name!r}: use letters, digits, `.`, `_`, `+` and `-` only")
        return name


def known_datasets() -> tuple[str, ...]:
    """Return the names of the specs that ship with the package."""
    files = resources.files("promptailor.evals.specs").iterdir()
    return tuple(sorted(f.name.removesuffix(".yaml") for f in files if f.name.endswith(".yaml")))


def load_spec(name_or_path: str, catalogue: Catalogue | None = None) -> DatasetSpec:
    """Load and check a spec.

    Args:
        name_or_path: a known name in any case, or the path of a YAML file; `folder` is then relative to that file. A
            spec may begin with `extends: NAME` and give only what differs from a known one.
        catalogue: where the spec's domain must be found; None for the built-in one.

    Raises:
        DataError: the name is unknown, or the file cannot be read or fails a check; the message names the field.
    """
    path = Path(name_or_path)
    if name_or_path.casefold() in known_datasets():
        spec = _parse_spec(_shipped(name_or_path.casefold()), name_or_path)
    elif path.suffix in (".yaml", ".yml"):
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"data set spec {path}: cannot be read ({error})") from None
        spec = _parse_spec(text, name_or_path)
        spec = spec.model_copy(update={"folder": str(path.parent.absolute() / spec.folder)})
    else:
        known = ", ".join(known_datasets())
        raise DataError(f"data set {name_or_path!r} is unknown; known: {known}, or give the path of a .yaml spec")
    domains = (catalogue or load_catalogue()).domains
    if spec.domain not in domains:
        raise DataError(
            f"data set spec {name_or_path}: domain {spec.domain!r} is unknown; known: {', '.join(sorted(domains))}"
        )
    return spec


def _shipped(name: str) -> str:
    return resources.files("promptailor.evals.specs").joinpath(f"{name}.yaml").read_text("utf-8")


def _parse_spec(text: str, where: str) -> DatasetSpec:
    try:
        fields = yaml.safe_load(text)
        if isinstance(fields, dict) and "extends" in fields:
            fields = _extended(fields, where)
        return DatasetSpec.model_validate(fields)
    except yaml.YAMLError as error:
        raise DataError(f"data set spec {where}: not YAML ({' '.join(str(error).split())})") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise DataError(f"data set spec {where}: {place + ': ' if place else ''}{message}") from None


def _extended(fields: dict[str, object], where: str) -> dict[str, object]:
    """Return the fields of the spec that `extends` names, with those given here in their place."""
    base = fields.pop("extends")
    if base not in known_datasets():
        raise DataError(f"data set spec {where}: extends: {base!r} is unknown; known: {', '.join(known_datasets())}")
    inherited: dict[str, object] = yaml.safe_load(_shipped(str(base)))
    if "extends" in inherited:
        raise DataError(f"data set spec {where}: extends: {base} extends another spec itself; name that one")
    inherited.pop("digest", None)  # of other content, as soon as anything differs
    return {**inherited, **fields}


def find_layout(spec: DatasetSpec, data_dir: Path) -> tuple[Layout, dict[str, Path]]:
    """Return the edition whose files are there, and the path of each file name.

    Raises:
        DataError: no edition is complete; the message names what is missing and the fix.
    """
    folder = _find(data_dir, spec.folder) or data_dir / spec.folder
    lacking: list[list[str]] = []
    for layout in spec.layouts:
        paths = {file: _find(folder, file) for file in layout.files}
        found = {file: path for file, path in paths.items() if path is not None}
        if len(found) == len(paths):
            return layout, found
        lacking.append([file for file in paths if file not in found])
    missing = " or ".join(", ".join(files) for files in sorted(lacking, key=len)) or "any file in its spec"
    raise DataError(f"data set {spec.name}: {folder} lacks {missing}; {_fix(spec)}")


def is_present(spec: DatasetSpec, data_dir: Path) -> bool:
    """Return whether an edition of the data set is complete under the data folder."""
    try:
        find_layout(spec, data_dir)
    except DataError:
        return False
    return True


def _fix(spec: DatasetSpec) -> str:
    if Path(spec.folder).is_absolute():
        return "put the files there"
    get = f"run `promptailor data get {spec.name}` or " if spec.sources else ""
    return f"{get}set PROMPTAILOR_DATA to a folder that holds {spec.folder}"


def _find(parent: Path, name: str) -> Path | None:
    """Return a file or folder by its name in any case, None where there is none."""
    if (parent / name).exists():
        return parent / name
    wanted = (parent / name).name.casefold()
    folder = (parent / name).parent
    return next((p for p in sorted(folder.iterdir()) if p.name.casefold() == wanted), None) if folder.is_dir() else None
