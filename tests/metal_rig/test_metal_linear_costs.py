"""Cost of the linear layers on paper: the report is current, and its figures are right."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Type
from metal_rig.weights import TYPES

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("metal_linear_costs")


def test_the_report_is_up_to_date(costs: ModuleType) -> None:
    assert costs.REPORT.read_text() == costs.report(), "run python benchmarks/metal_linear_costs.py"


@pytest.mark.parametrize("dtype", TYPES, ids=lambda t: t.name)
def test_block_sizes_are_the_package_s(costs: ModuleType, dtype: Type) -> None:
    assert costs.BLOCKS[dtype.name] == GGML_QUANT_SIZES[dtype]


def test_a_tile_counted_by_hand(costs: ModuleType) -> None:
    """17 rows of 32 columns in Q8_0 for 5 tokens: 2 x 2 threadgroups of 16 rows and 4 tokens."""
    values = {"kLinearDecodeRows": 16, "kLinearMaxTokensPerPass": 4}
    cost = costs.decode_cost(costs.Linear("Q8_0", 17, 32, n_tokens=5), values)
    weights, x, out, tokens = 17 * 34, 5 * 32 * 4, 5 * 17 * 4, 5 * 4
    assert cost.n_threadgroups == 4
    assert cost.minimum == weights + x + out + tokens
    assert cost.moved == 2 * weights + 2 * (x + tokens) + out
    assert cost.operations == 2 * 5 * 17 * 32


def test_a_large_mat_vec_moves_little_more_than_its_minimum_beyond_x(costs: ModuleType) -> None:
    values = costs.base.header_values(costs.CONSTANTS)
    case = costs.Linear("Q4_K", 65536, 4096)
    cost = costs.decode_cost(case, values)
    rereads = (cost.n_threadgroups - 1) * (case.n_cols * 4 + 4)
    assert cost.moved - rereads == cost.minimum


def test_threadgroup_memory_is_within_metal_s_limit(costs: ModuleType) -> None:
    values = costs.base.header_values(costs.CONSTANTS)
    assert values["linear_prefill_memory()"] <= costs.base.METAL_LIMIT
