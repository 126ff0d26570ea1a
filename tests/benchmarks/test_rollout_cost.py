"""The benchmark runs at toy size."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_it_runs(tiny_model_path: Callable[[str], Path]) -> None:
    path = ROOT / "benchmarks" / "rollout_cost.py"
    spec = importlib.util.spec_from_file_location("rollout_cost", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.measure(str(tiny_model_path("llama3")), 12, 3)
    assert set(found["share"]) == {
        "baseline alone",
        "with comparisons",
        "half on the candidate",
    }
    assert found["share"]["baseline alone"] == 1
    assert min(found["tokens_per_second"].values()) > 0
