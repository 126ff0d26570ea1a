"""The decode step takes the instructions that it did."""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType

import pytest


def count(instruction_count: ModuleType, binary: Path, profiling: str = "off") -> int:
    try:
        return int(instruction_count.count(binary, profiling))
    except instruction_count.CannotCountError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


def test_a_decode_step_takes_as_many_instructions_as_before(
    instruction_count: ModuleType, binary: Path
) -> None:
    expected = instruction_count.stored_count(binary)
    if expected is None:
        about = instruction_count.describe(binary)
        pytest.skip(f"nothing is stored for {about['compiler']} ({about['build']})")
    counted = count(instruction_count, binary)
    assert counted == pytest.approx(expected, rel=instruction_count.TOLERANCE), (
        "if the change is meant, run benchmarks/instruction_count.py --update"
    )


def test_a_trace_adds_less_than_two_percent(instruction_count: ModuleType, binary: Path) -> None:
    off = count(instruction_count, binary)
    for profiling in ("timers", "trace"):
        assert off < count(instruction_count, binary, profiling) < 1.02 * off
