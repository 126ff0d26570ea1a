"""The installed package is complete, and the sources keep the rules of the house."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import longbow_quarrel

ROOT = Path(__file__).parents[1]
PACKAGE = Path(longbow_quarrel.__file__).parent
SOURCES = sorted((ROOT / "python").rglob("*.py"))
# Import names that differ from the name of the distribution.
DISTRIBUTIONS = {"huggingface_hub": "huggingface-hub"}
# Another distribution requires these on its own account, as part of its interface.
COMES_WITH = {"pydantic": "fastapi", "click": "typer", "starlette": "fastapi"}
# The other distribution looks for these and is faster where it finds them.
LOOKED_FOR_BY = {"httptools": "uvicorn", "uvloop": "uvicorn"}


def installed() -> metadata.Distribution:
    try:
        return metadata.distribution("longbow-quarrel")
    except metadata.PackageNotFoundError:
        pytest.skip("longbow_quarrel is imported from a source tree; run pip install . to test it")


def imported_modules(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names}


def declared_dependencies() -> set[str]:
    text = (ROOT / "pyproject.toml").read_text()
    block = re.search(r"^dependencies = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE)
    assert block
    return {canonicalize_name(Requirement(r).name) for r in re.findall(r'"([^"]+)"', block[1])}


def test_the_type_information_is_installed() -> None:
    assert (PACKAGE / "py.typed").is_file()
    assert (PACKAGE / "_core.pyi").is_file()


def test_the_version_is_the_same_everywhere() -> None:
    cmake = re.search(
        r"project\(longbow_quarrel VERSION (\S+)", (ROOT / "CMakeLists.txt").read_text()
    )
    assert cmake
    assert f'version = "{cmake[1]}"' in (ROOT / "pyproject.toml").read_text()
    assert installed().version == cmake[1]
    assert longbow_quarrel.__version__ == cmake[1]


def test_both_commands_are_installed() -> None:
    scripts = {e.name: e.value for e in installed().entry_points if e.group == "console_scripts"}
    assert scripts.keys() == {"longbow-quarrel", "quarrel"}
    for target in scripts.values():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_the_native_benchmark_is_installed() -> None:
    files = installed().files or []
    assert any(file.name == "quarrel-bench" for file in files)


def test_every_public_name_exists() -> None:
    for name in longbow_quarrel.__all__:
        assert getattr(longbow_quarrel, name) is not None


def test_what_is_imported_is_declared_and_what_is_declared_is_imported() -> None:
    third_party = set.union(*map(imported_modules, SOURCES))
    third_party -= sys.stdlib_module_names | {"longbow_quarrel"}
    needed = {
        canonicalize_name(DISTRIBUTIONS.get(name, COMES_WITH.get(name, name)))
        for name in third_party
    }
    needed |= {name for name, user in LOOKED_FOR_BY.items() if user in needed}
    assert needed == declared_dependencies()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_configuration_reads_the_environment(path: Path) -> None:
    if path.name != "config.py":
        assert not re.search(r"environ(\.get|\[)|\bgetenv\b", path.read_text())


def test_files_stay_small() -> None:
    long = {
        str(path.relative_to(ROOT)): n_lines
        for folder in ("cpp", "python", "shaders", "tests")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".cpp", ".h", ".mm", ".metal"}
        and (n_lines := len(path.read_text().splitlines())) > 500
    }
    assert not long
