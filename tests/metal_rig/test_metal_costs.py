"""Cost of the Metal kernels on paper: the report is current, and its bounds hold."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "metal_costs.py"


@pytest.fixture(scope="module")
def costs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("metal_costs", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["metal_costs"] = module
    spec.loader.exec_module(module)
    return module


def test_the_report_is_up_to_date(costs: ModuleType) -> None:
    assert costs.REPORT.read_text() == costs.report(), "run python benchmarks/metal_costs.py"


WIDE = [("f16", "f16"), ("f32", "bf16")]
NARROW = [("q8_0", "q8_0"), ("q4_0", "q4_0"), ("q8_0", "q4_0"), ("q4_0", "f16")]


@pytest.mark.parametrize(
    ("types", "lengths"),
    [(WIDE, [1024, 1026, 2050]), (WIDE + NARROW, [4096, 4610, 10_000, 32_768])],
)
def test_decode_attention_moves_little_but_keys_values_and_queries(
    costs: ModuleType, types: list[tuple[str, str]], lengths: list[int]
) -> None:
    """At most 1.1 times their bytes, whatever heads and masks."""
    cases = [
        costs.Attention(
            n_heads=ratio * 2,
            n_kv_heads=2,
            head_dim=head_dim,
            k_type=k,
            v_type=v,
            n_tokens=n_tokens,
            window=window,
            sinks=sinks,
        )
        for ratio, head_dim, (k, v), n_tokens, (window, sinks) in itertools.product(
            [1, 3, 4, 8], [64, 80, 128, 256], types, lengths, [(0, 0), (4096, 4)]
        )
    ]
    values = costs.header_values([e for case in cases for e in case.expressions()])
    for case in cases:
        cost = costs.decode_cost(case, values)
        assert cost.moved <= 1.1 * cost.kv_and_query, case


def test_small_partitions_would_not(costs: ModuleType) -> None:
    """The bound is not empty: partial sums of short partitions break it."""
    case = costs.Attention(k_type="q4_0", v_type="q4_0", n_tokens=32_768, partition=128)
    cost = costs.decode_cost(case, costs.header_values(case.expressions()))
    assert cost.moved > 1.1 * cost.kv_and_query


def test_threadgroup_memory_fits(costs: ModuleType) -> None:
    sizes = [f"attention_prefill_memory({d}, {b})" for d in (64, 80, 96, 128, 256) for b in (2, 4)]
    sizes += [
        costs.Attention(n_heads=g, n_kv_heads=1, head_dim=d).decode_memory
        for g in range(1, 9)
        for d in (64, 80, 96, 128, 256)
    ]
    assert max(costs.header_values(sizes).values()) <= costs.METAL_LIMIT


def test_visible_tokens(costs: ModuleType) -> None:
    assert costs.visible_tokens(9, 0, 0) == 10
    assert costs.visible_tokens(99, 10, 4) == 14
    assert costs.visible_tokens(5, 10, 4) == 6
    assert costs.tokens_of_tiles(99, 10, 4) == 8 + 16  # positions 0..7, 88..103
