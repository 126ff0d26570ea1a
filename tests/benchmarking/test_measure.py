"""Timed steps: the same result for every strategy, as often as wished, and what they must read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from longbow_quarrel import EngineConfig, _core
from longbow_quarrel.benchmarking import (
    Measurement,
    StepBench,
    Traffic,
    Workload,
    bench_config,
    describe_machine,
    memory_bandwidth,
    workloads,
)
from longbow_quarrel.benchmarking.traffic import prefill_steps
from longbow_quarrel.model_runner import ModelRunner

TinyPath = Callable[[str], Path]


def make_bench(path: Path, works: list[Workload], **config: object) -> StepBench:
    given = EngineConfig(**({"n_threads": 1} | config))
    return StepBench(ModelRunner(path, bench_config(_core.GGUFFile(str(path)), given, works)))


@pytest.mark.parametrize("model", ["llama3", "gemma3"])
def test_every_strategy_computes_the_same(tiny_model_path: TinyPath, model: str) -> None:
    works = workloads([40], [6], [0, 75], [1, 3])
    found = {}
    for cache, more in (
        ("contiguous", {}),
        ("paged", {"block_size": 8, "n_threads": 2}),
        ("sliding_window", {}),
        ("paged", {"max_num_batched_tokens": 17}),
    ):
        bench = make_bench(tiny_model_path(model), works, cache=cache, **more)
        hashes = tuple(bench.measure(work, rounds=2).result_hash for work in works)
        found[hashes] = found.get(hashes, 0) + 1
        stats = bench.runner.cache.stats()
        assert (stats.n_sequences, stats.n_used_blocks) == (0, 0)
        bench.runner.cache.check_invariants()
    assert list(found.values()) == [4]


def test_the_result_is_that_of_logits(tiny_model_path: TinyPath) -> None:
    work = Workload(0, 5, depth=30)
    bench = make_bench(tiny_model_path("llama3"), [work])
    ids = work.tokens(bench.runner.parameters.vocab_size)[0]
    logits = bench.runner.all_logits(ids, 7)[-1:].copy()
    with bench.prepared(work) as batch:
        batch.run()
        digest = batch.result_hash
    assert digest == hashlib.sha256(logits.tobytes()).hexdigest()[:12]


def test_rounds_go_back_behind_a_narrow_window(tiny_model_path: TinyPath) -> None:
    work = Workload(0, 20, depth=200, batch=2)
    hashes = {
        make_bench(tiny_model_path("llama3"), [work], cache=cache, window=24, block_size=8)
        .measure(work, rounds=3)
        .result_hash
        for cache in ("sliding_window", "paged")
    }
    assert len(hashes) == 1


def test_rows_in_the_order_of_llama_bench() -> None:
    rows = workloads([512], [128], [0, 4096], [1, 16])
    assert [(row.label, row.batch) for row in rows] == [
        *(("pp512", 1), ("tg128", 1), ("pp512", 16), ("tg128", 16)),
        *(("pp512 @ d4096", 1), ("tg128 @ d4096", 1)),
        *(("pp512 @ d4096", 16), ("tg128 @ d4096", 16)),
    ]
    assert [row.label for row in workloads([0, 8], [0], [0], [1])] == ["pp8"]


def test_speeds_from_seconds() -> None:
    row = Measurement(Workload(0, 10, batch=4), (0.5, 1.0), 2e6, "")
    assert row.samples == [80.0, 40.0]
    assert row.tokens_per_second == 60.0
    assert row.deviation == pytest.approx(np.std([80, 40], ddof=1))
    assert row.best == 80.0
    assert row.share_of_limit(240e6) == 0.5
    assert Measurement(Workload(8, 0), (0.5,), 1, "").deviation == 0.0


def test_prompts_fill_steps() -> None:
    steps = prefill_steps(Workload(10, 0, depth=100, batch=3), 16)
    assert steps == [[(110, 10), (106, 6)], [(110, 4), (110, 10)]]
    assert sum(n for step in steps for _, n in step) == 30


def test_bytes_of_a_step(tiny_model_path: TinyPath) -> None:
    path = tiny_model_path("gemma3")
    work = Workload(0, 1, depth=99, batch=2)
    runner = make_bench(path, [work], kv_type_k="f32", kv_type_v="f32").runner
    traffic = Traffic(runner)
    expected = 0.0
    for layer in runner.program.kv_layers:
        seen = min(100, layer.window) if layer.window else 100
        expected += 2 * seen * layer.n_kv_heads * layer.head_dim * 2 * 4
    assert any(layer.window for layer in runner.program.kv_layers)
    assert traffic.step_bytes([(100, 1), (100, 1)]) == traffic.weight_bytes + expected
    assert traffic.bytes_per_token(work) == (traffic.weight_bytes + expected) / 2
    prompt = Workload(64, 0)
    per_token = make_bench(path, [prompt]).traffic.bytes_per_token(prompt)
    assert per_token < traffic.weight_bytes / 32


def test_the_bytes_of_a_window_stop_growing(tiny_model_path: TinyPath) -> None:
    near, far = Workload(0, 1, depth=64), Workload(0, 1, depth=512)
    options = {"cache": "sliding_window", "window": 32, "sinks": 4}
    narrow = make_bench(tiny_model_path("llama3"), [near, far], **options).traffic
    assert narrow.bytes_per_token(near) == narrow.bytes_per_token(far)
    wide = make_bench(tiny_model_path("llama3"), [near, far]).traffic
    assert wide.bytes_per_token(near) < wide.bytes_per_token(far)


def test_bandwidth_and_machine(tiny_model_path: TinyPath) -> None:
    assert memory_bandwidth(1, mebibytes=8) > 1e8
    device = make_bench(tiny_model_path("llama3"), [Workload(4, 0)]).runner.device
    machine = describe_machine(device)
    assert machine.n_threads == 1
    assert machine.isa in _core.available_isas()
    assert machine.cpu in machine.sentence()
    assert machine.is_like(describe_machine(device))
