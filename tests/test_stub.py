"""The checked-in stub of the native module is what nanobind generates from the module itself.

So a change of the native interface shows in the diff, and what mypy reads is true. Refresh it with
the command that a failure prints (nanobind's stub generator, of the version in pyproject.toml).
"""

from __future__ import annotations

import difflib
from pathlib import Path

from nanobind.stubgen import StubGen

from longbow_quarrel import _core

STUB = "python/longbow_quarrel/_core.pyi"
REFRESH = f"python -m nanobind.stubgen -m longbow_quarrel._core -o {STUB}"


def test_the_stub_is_up_to_date() -> None:
    generator = StubGen(_core)
    generator.put(_core)
    checked_in = (Path(__file__).parents[1] / STUB).read_text()
    diff = list(
        difflib.unified_diff(
            checked_in.splitlines(),
            generator.get().splitlines(),
            STUB,
            "the installed module",
            lineterm="",
        )
    )
    assert not diff, "\n".join([f"the stub is out of date; refresh it: {REFRESH}", *diff])


def test_every_function_says_what_it_takes_and_gives() -> None:
    text = (Path(__file__).parents[1] / STUB).read_text()
    assert "*args" not in text
    assert "Incomplete" not in text
    assert "CapsuleType" not in text
