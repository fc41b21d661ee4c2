"""The one import rule, light start-up, and a wheel that holds what the tree holds: checked by reading the sources."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("app", "evals", "graph", "policies", "prompts")
"""Left may import right, never back."""
HEAVY = {"torch", "transformers", "sentence_transformers", "peft", "vllm"}
"""Take seconds to import; `promptailor --help` and an app that embeds the graph must not wait for them."""
LIGHT = ("app/*.py", "evals/*.py", "graph/*.py", "prompts/*.py")
ENTRY_POINTS = ("app/cli/*.py", "app/wiring.py", "graph/*.py", "prompts/*.py")
"""What users import first; here whatever they import in turn has to be light as well."""


def imports(path: Path, *, at_import: bool = False) -> Iterator[tuple[int, str]]:
    """Yield line and module of a file's imports; `at_import` leaves out those in functions and for type checkers."""
    todo: list[ast.AST] = [ast.parse(path.read_text("utf-8"), str(path))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield node.lineno, module
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)
        lazy = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not (at_import and (lazy or typing_only)):
            todo.extend(ast.iter_child_nodes(node))


def upward_imports(root: Path) -> list[str]:
    """Report imports against the rule, by bare folder name, or relative."""
    faults = []
    for place, folder in enumerate(FOLDERS):
        for path in sorted((root / folder).rglob("*.py")):
            for line, module in imports(path):
                package, _, rest = module.partition(".")
                target = rest.partition(".")[0]
                upward = package == "promptailor" and target in FOLDERS[:place]
                if upward or package in FOLDERS or package == "":
                    faults.append(f"{path.relative_to(root)}:{line} imports {module}")
    return faults


def heavy_imports(root: Path) -> list[str]:
    """Report heavy imports at the top of light modules, and those that entry points reach through other modules."""
    light, entry_points = (
        {p for pattern in patterns for p in root.glob(pattern)} for patterns in (LIGHT, ENTRY_POINTS)
    )
    todo: list[tuple[Path, ...]] = [(path,) for path in sorted(light | entry_points)]
    faults, seen = [], set()
    for chain in todo:  # grows while it is walked
        for line, module in imports(chain[-1], at_import=True):
            if (heavy := module.split(".")[0]) in HEAVY:
                way = " > ".join(str(step.relative_to(root)) for step in chain)
                faults.append(f"{way}:{line} imports {heavy}")
            target = module_file(root, module) if chain[0] in entry_points else None
            if target and target not in seen:
                seen.add(target)
                todo.append((*chain, target))
    return list(dict.fromkeys(faults))


def module_file(root: Path, module: str) -> Path | None:
    """Return the source file of one of our modules; None for any other name."""
    package, _, rest = module.partition(".")
    base = root.joinpath(*rest.split("."))
    found = (path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file())
    return next(found, None) if package == "promptailor" else None


def packages(root: Path) -> set[str]:
    """Return the dotted names of the tree's packages."""
    files = (path for folder in FOLDERS for path in (root / folder).rglob("*.py"))
    return {".".join(("promptailor", *path.parent.relative_to(root).parts)) for path in files}


def unshipped_data(root: Path, package_data: Mapping[str, list[str]]) -> list[str]:
    """Return files of the five folders that no pattern puts into the wheel."""
    missing = []
    for path in (path for folder in FOLDERS for path in sorted((root / folder).rglob("*"))):
        if path.is_dir() or path.suffix in (".py", ".pyc") or path.name.startswith("."):
            continue
        home = next(parent for parent in path.parents if any(parent.glob("*.py")))
        name = PurePosixPath(path.relative_to(home))
        patterns = package_data.get(".".join(("promptailor", *home.relative_to(root).parts)), [])
        if not any(same_depth_match(name, pattern) for pattern in (*patterns, *package_data.get("*", []))):
            missing.append(str(path.relative_to(root)))
    return missing


def same_depth_match(name: PurePosixPath, pattern: str) -> bool:
    return len(name.parts) == len(PurePosixPath(pattern).parts) and name.match(pattern)


@pytest.fixture(scope="module")
def setuptools() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    return table


def write(root: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")


def test_folders_import_only_to_the_right() -> None:
    assert upward_imports(ROOT) == []


def test_the_rule_sees_what_breaks_it(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "prompts/a.py": "from promptailor.policies.reward import ndcg\n",
            "policies/b.py": "def f():\n    import promptailor.graph.build\n",
            "graph/c.py": "from promptailor import app\n",
            "evals/d.py": "import prompts.domain\n",
            "app/e.py": "from ..graph import build\n",
            "app/fine.py": "from promptailor.prompts.domain import Item\nimport promptailor.evals\n",
        },
    )
    faults = upward_imports(tmp_path)
    assert {fault.split(":")[0] for fault in faults} == {
        "prompts/a.py",
        "policies/b.py",
        "graph/c.py",
        "evals/d.py",
        "app/e.py",
    }


def test_start_up_is_light() -> None:
    assert heavy_imports(ROOT) == []


def test_heavy_imports_are_seen(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "graph/build.py": "from promptailor.policies.networks import Actor\n",
            "policies/networks.py": "from torch.nn import Linear\n",
            "evals/run.py": "from sentence_transformers import SentenceTransformer\n",
            "app/lazy.py": "def f():\n    import torch\n",
            "app/typed.py": "if TYPE_CHECKING:\n    import torch\n",
            "app/backends/local.py": "import transformers\n",
        },
    )
    ways = {fault.split(":")[0] for fault in heavy_imports(tmp_path)}
    assert ways == {"graph/build.py > policies/networks.py", "evals/run.py"}


def test_pyproject_lists_every_package(setuptools: dict[str, Any]) -> None:
    assert sorted(setuptools["packages"]) == sorted(packages(ROOT))
    assert setuptools["package-dir"] == {f"promptailor.{folder}": folder for folder in FOLDERS}


def test_the_wheel_holds_every_data_file(setuptools: dict[str, Any]) -> None:
    assert unshipped_data(ROOT, setuptools["package-data"]) == []


def test_an_unshipped_file_is_seen(tmp_path: Path) -> None:
    write(tmp_path, {"app/cli.py": "", "app/pages/index.html": "", "app/words.yaml": "", "prompts/x.py": ""})
    assert unshipped_data(tmp_path, {"promptailor.app": ["*.yaml"]}) == ["app/pages/index.html"]
    assert unshipped_data(tmp_path, {"promptailor.app": ["*.yaml", "pages/*.html"]}) == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_type_checkers_see_every_folder(folder: str) -> None:
    link = ROOT / "typings" / "promptailor" / folder
    assert link.is_symlink()
    assert link.readlink() == Path("../..") / folder
    assert link.resolve() == ROOT / folder


def test_promptailor_is_a_namespace_package() -> None:
    assert not (ROOT / "promptailor").exists()
    assert not list((ROOT / "typings" / "promptailor").glob("*.py*"))
