"""The decode step takes the instructions that it did."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

Count = Callable[[str], int]


@pytest.fixture(scope="module")
def count(instruction_count: ModuleType, binary: Path) -> Count:
    """Instructions of a step by what is noted of it, counted once each."""

    @functools.cache
    def instructions(profiling: str) -> int:
        try:
            return int(instruction_count.count(binary, profiling))
        except instruction_count.CannotCountError as error:
            if os.environ.get("CI") == "true":
                raise
            pytest.skip(str(error))

    return instructions


def test_a_decode_step_takes_as_many_instructions_as_before(
    instruction_count: ModuleType, binary: Path, count: Count
) -> None:
    expected = instruction_count.stored_count(binary)
    if expected is None:
        about = instruction_count.describe(binary)
        pytest.skip(f"nothing is stored for {about['compiler']} ({about['build']})")
    assert count("off") == pytest.approx(expected, rel=instruction_count.TOLERANCE), (
        "if the change is meant, run benchmarks/instruction_count.py --update"
    )


def test_a_trace_adds_less_than_two_percent(count: Count) -> None:
    assert count("off") < count("trace") < 1.02 * count("off")
