"""The native benchmark, as the wheel installs it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "instruction_count.py"


@pytest.fixture(scope="session")
def instruction_count() -> ModuleType:
    """The script benchmarks/instruction_count.py."""
    spec = importlib.util.spec_from_file_location("instruction_count", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def binary(instruction_count: ModuleType) -> Path:
    """``QUARREL_TEST_BENCH``, for a build that is not installed, or the installed program."""
    if given := os.environ.get("QUARREL_TEST_BENCH"):
        return Path(given)
    try:
        return Path(instruction_count.find_binary())
    except instruction_count.CannotCountError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def run(binary: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(binary), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    return call


@pytest.fixture(scope="session")
def rows(
    run: Callable[..., subprocess.CompletedProcess[str]],
) -> Callable[..., list[dict[str, Any]]]:
    """The rows of a run that must succeed."""

    def call(*arguments: str) -> list[dict[str, Any]]:
        result = run(*arguments, "-o", "json")
        assert result.returncode == 0, result.stdout + result.stderr
        return list(json.loads(result.stdout))

    return call
