"""Cost of the row kernels on paper: the report is current and nothing moves less than it must."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("metal_row_costs")


def test_the_report_is_up_to_date(costs: ModuleType) -> None:
    assert costs.REPORT.read_text() == costs.report(), "run python benchmarks/metal_row_costs.py"


def test_every_byte_is_moved_and_memory_fits(costs: ModuleType) -> None:
    rows = costs.rows(costs.header_values(costs.EXPRESSIONS))
    assert len(rows) == 2 * 8 + 2 * 2
    for row in rows:
        assert row.minimum <= row.moved <= 2.01 * row.minimum, row
        assert row.memory <= 32 << 10
