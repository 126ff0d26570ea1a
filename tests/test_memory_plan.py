"""The plan is the truth: predicted equals charged, to the byte, and nothing is taken later."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from longbow_quarrel import LLM, EngineConfig, SamplingParams, _core
from longbow_quarrel.cache import register_strategy
from longbow_quarrel.config import KVType
from longbow_quarrel.errors import OutOfMemoryError, UsageError
from longbow_quarrel.kv_sizing import Demand, counts_for_bytes, kv_bytes
from longbow_quarrel.memory_plan import Planner, plan_memory
from longbow_quarrel.model_runner import ModelRunner

MODELS = sorted(p.stem for p in (Path(__file__).parent / "data" / "models").glob("*.gguf"))
STRATEGIES: dict[str, dict[str, object]] = {
    "contiguous": {},
    "paged": {},
    "sliding_window": {"window": 40, "sinks": 3},
}
SMALL = {"n_threads": 2, "max_num_seqs": 3, "context_length": 300, "max_num_batched_tokens": 48}
GREEDY = SamplingParams(max_tokens=24, temperature=0, ignore_eos=True)


def _config(strategy: str, **more: object) -> EngineConfig:
    return EngineConfig(**{**SMALL, **STRATEGIES[strategy], "cache": strategy, **more})


def _charged(path: Path, config: EngineConfig) -> dict[str, int]:
    runner = ModelRunner(path, config)
    assert runner.ledger.used_by_kind() == runner.plan.by_kind
    return runner.ledger.used_by_kind()


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", MODELS)
def test_predicted_is_charged(name: str, strategy: str, tiny_model_path) -> None:
    path = tiny_model_path(name)
    for config in (
        _config(strategy),
        _config(strategy, block_size=32, n_threads=1, eviction="lfu"),
        _config(strategy, kv_cache_memory=1 << 20, prefix_caching=False),
    ):
        charged = _charged(path, config)
        assert charged == plan_memory(path, config).by_kind
        assert charged["kv"] > 0
        assert charged["prefix_cache"] > 0


@pytest.mark.parametrize("kv_type", get_args(KVType))
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", ["llama3", "gemma3"])
def test_predicted_is_charged_for_every_type(
    name: str, strategy: str, kv_type: str, tiny_model_path
) -> None:
    path = tiny_model_path(name)
    for k, v in ((kv_type, kv_type), (kv_type, "f32")):
        config = _config(strategy, kv_type_k=k, kv_type_v=v)
        try:
            predicted = plan_memory(path, config).by_kind
        except UsageError as e:  # a head too small for a type's blocks, for one
            pytest.skip(str(e))
        assert _charged(path, config) == predicted


@pytest.mark.parametrize("model", ["smollm2_path", "gemma3_path"])
def test_predicted_is_charged_for_real_models(model: str, request) -> None:
    path = request.getfixturevalue(model)
    for strategy in STRATEGIES:
        config = _config(strategy, max_num_seqs=4, context_length=2000)
        predicted = plan_memory(path, config).by_kind
        gc.collect()
        assert _charged(path, config) == predicted


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_cap_of_what_is_predicted_suffices_and_a_byte_less_does_not(
    strategy: str, tiny_llm, tiny_model_path
) -> None:
    options = {**SMALL, **STRATEGIES[strategy], "cache": strategy, "kv_cache_memory": 400_000}
    total = plan_memory(tiny_model_path("gemma3"), EngineConfig(**options)).total_bytes
    llm = tiny_llm("gemma3", **options, memory_limit=total)
    [out] = llm.generate(["some words"], GREEDY)
    assert len(out.token_ids) == 24
    assert llm.stats()["memory"]["peak_bytes"] == total == llm.stats()["memory"]["cap_bytes"]
    with pytest.raises(OutOfMemoryError, match="raise memory_limit by 1 bytes, or lower kv_cache"):
        tiny_llm("gemma3", **options, memory_limit=total - 1)


def test_a_cache_sized_by_itself_shrinks_to_the_cap(tiny_llm, tiny_model_path) -> None:
    path = tiny_model_path("gemma3")
    roomy = plan_memory(path, _config("paged"))
    tight = plan_memory(path, _config("paged", memory_limit=roomy.total_bytes - 1))
    assert 0 < roomy.total_bytes - tight.total_bytes < 2 * sum(roomy.block_bytes) + 4096
    assert tight.capacity_tokens < roomy.capacity_tokens
    llm = tiny_llm("gemma3", **SMALL, cache="paged", memory_limit=tight.total_bytes)
    assert llm.generate(["x"], GREEDY)[0].finish_reason == "length"


def _idle(llm: LLM) -> None:
    memory = llm.stats()["memory"]
    assert memory["by_kind"] == memory["predicted_by_kind"]
    assert llm.stats()["cache"]["n_used_blocks"] == 0
    llm.engine.runner.cache.check_invariants()


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", ["llama3", "gemma3"])
def test_any_workload_leaves_the_ledger_as_it_was(name: str, strategy: str, tiny_llm) -> None:
    """Batches, forks of a prompt, an abandoned stream, whole-text logits; nothing grows."""
    llm = tiny_llm(name, **{**SMALL, **STRATEGIES[strategy]}, cache=strategy)
    _idle(llm)
    prompts = [list(range(4, 4 + n)) for n in (1, 17, 64, 150, 33)]
    several = SamplingParams(max_tokens=9, temperature=0.7, seed=1, n=3, ignore_eos=True)
    for _ in range(2):
        llm.generate(prompts, GREEDY)
        llm.generate(prompts[:2], several)
        with llm.stream(prompts[3], GREEDY) as stream:
            next(iter(stream))
        _idle(llm)
    peak = llm.stats()["memory"]["peak_bytes"]
    assert peak == llm.stats()["memory"]["used_bytes"]
    llm.logits(prompts[3])  # more rows at once than were planned for
    assert llm.stats()["memory"]["peak_bytes"] > peak
    _idle(llm)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_preemption_leaves_the_ledger_as_it_was(strategy: str, tiny_llm, tiny_model_path) -> None:
    options = {**SMALL, **STRATEGIES[strategy], "cache": strategy}
    full = plan_memory(tiny_model_path("gemma3"), EngineConfig(**options))
    blocks = [min(n, 22) for n in full.n_blocks]  # for one text and a half
    llm = tiny_llm("gemma3", **options, kv_cache_memory=kv_bytes(blocks, full.block_bytes))
    prompts = [list(range(4 + i, 100 + i)) for i in range(3)]
    long = SamplingParams(max_tokens=150, temperature=0, ignore_eos=True)
    together = [o.token_ids for o in llm.generate(prompts, long)]
    if strategy == "paged":
        assert llm.engine.scheduler.n_preemptions > 0
    _idle(llm)
    assert together == [llm.generate([p], long)[0].token_ids for p in prompts]
    _idle(llm)


# ---- Hybrid models ---------------------------------------------------------------------------


def test_blocks_go_where_they_hold_tokens() -> None:
    demand = Demand(((512, 0), (0, 0)), 16, 4, 8192, 512)
    block_bytes = (15, 3)
    counts = counts_for_bytes(demand, block_bytes, 15_000)
    # Four sequences, each with its window, a step, and one block more: the span starts anywhere.
    assert counts[0] == 4 * ((511 + 512 + 15) // 16 + 1)
    assert kv_bytes(counts, block_bytes) <= 15_000
    assert kv_bytes(demand.counts(counts[1] + 1), block_bytes) > 15_000
    assert counts[1] > 15_000 // sum(block_bytes)  # what equal counts would have bought
    # A small budget buys equal counts: windows need no more blocks than texts have.
    assert counts_for_bytes(demand, block_bytes, 180) == (10, 10)
    with pytest.raises(UsageError, match="one block takes 18 bytes"):
        counts_for_bytes(demand, block_bytes, 17)


def test_windows_alone_are_sized_for_whole_sequences() -> None:
    demand = Demand(((64, 0), (100, 8)), 16, 4, 10_000, 32)
    one = tuple(demand.of_sequence(span) for span in demand.spans)
    assert one == ((63 + 32 + 15) // 16 + 1, (99 + 32 + 15) // 16 + 1 + 1)
    assert counts_for_bytes(demand, (1, 1), sum(one)) == one
    assert counts_for_bytes(demand, (1, 1), 3 * sum(one)) == tuple(3 * n for n in one)
    with pytest.raises(UsageError, match="the windows of one sequence take"):
        counts_for_bytes(demand, (1, 1), sum(one) - 1)


def test_a_hybrid_model_gets_more_tokens_and_the_same_bits(tiny_llm) -> None:
    """Texts of many windows, in a cache whose local layers could not hold one of them."""
    options = {**SMALL, "context_length": 600, "max_num_seqs": 2, "kv_cache_memory": 300_000}
    plain = tiny_llm("gemma3", **options, cache="contiguous")
    paged = tiny_llm("gemma3", **options, cache="paged")
    n_blocks = paged.engine.runner.plan.n_blocks
    windows = paged.engine.runner.plan.cache_config.groups
    assert min(n_blocks) * 16 < 500
    assert n_blocks[windows.index(0)] == max(n_blocks)
    assert paged.stats()["cache"]["capacity_tokens"] > plain.stats()["cache"]["capacity_tokens"]

    prompts = [[4 + (7 * i + i * i) % 80 for i in range(n)] for n in (500, 180, 333)]
    reference = tiny_llm("gemma3", **{**options, "kv_cache_memory": "auto"}, cache="contiguous")
    want = [o.token_ids for o in reference.generate(prompts, GREEDY)]
    assert [o.token_ids for o in paged.generate(prompts, GREEDY)] == want
    again = paged.generate(prompts, GREEDY)
    assert [o.token_ids for o in again] == want
    assert max(o.cached_tokens for o in again) >= 176  # windows of what ended last are there


def test_a_sliding_window_serves_texts_longer_than_its_memory(tiny_llm) -> None:
    options = {**SMALL, "context_length": 1000, "max_num_seqs": 2}
    llm = tiny_llm("llama3", **options, cache="sliding_window", window=40, sinks=3)
    assert llm.stats()["cache"]["capacity_tokens"] < 500
    prompt = [4 + i % 80 for i in range(900)]
    [out] = llm.generate([prompt], GREEDY)
    masked = tiny_llm("llama3", **options, cache="contiguous", window=40, sinks=3)
    assert out.token_ids == masked.generate([prompt], GREEDY)[0].token_ids


# ---- Out of memory ---------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_loading_fails_cleanly_whatever_is_refused(strategy: str, tiny_model_path) -> None:
    path, config = tiny_model_path("gemma3"), _config(strategy)
    total = plan_memory(path, config).total_bytes
    for n in range(1, 100):
        ledger = _core.MemoryLedger(total)
        ledger.refuse_charge(n)
        runner = None
        with contextlib.suppress(OutOfMemoryError):
            runner = ModelRunner(path, config, ledger)
        if runner is not None:
            break
        assert ledger.used_bytes == 0
    assert n > 8
    assert runner.ledger.used_by_kind() == runner.plan.by_kind


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_running_engine_survives_every_refusal(strategy: str, tiny_llm) -> None:
    """Whatever charge is refused: an answer, or an error that says so; then all is well again."""
    llm = tiny_llm("gemma3", **{**SMALL, **STRATEGIES[strategy]}, cache=strategy)
    ledger = llm.engine.runner.ledger
    prompt = list(range(4, 90))
    several = SamplingParams(max_tokens=4, temperature=0.5, seed=2, n=3, ignore_eos=True)
    work: list[Callable[[], object]] = [
        lambda: [o.token_ids for o in llm.generate([prompt], several)],
        lambda: llm.logits(prompt).tobytes(),
    ]
    for task in work:
        want = task()
        for n in (1, 2, 3):
            ledger.refuse_charge(n)
            with contextlib.suppress(OutOfMemoryError):
                assert task() == want
            ledger.refuse_charge(0)
            _idle(llm)
            assert task() == want


def test_more_sequences_than_planned_wait_or_are_refused(tiny_llm) -> None:
    """The tables of another sequence are refused: its request waits, or says why it cannot run."""
    llm = tiny_llm("llama3", **SMALL, cache="paged")
    cache, ledger = llm.engine.runner.cache, llm.engine.runner.ledger
    held = [cache.match_prefix(np.arange(1, dtype=np.int32), 300).sequence for _ in range(3)]
    ledger.refuse_charge(1)
    with pytest.raises(OutOfMemoryError, match="no_memory"):
        llm.generate([[5, 6, 7]], GREEDY)
    ledger.refuse_charge(0)
    assert llm.generate([[5, 6, 7]], GREEDY)[0].finish_reason == "length"
    for sequence in held:
        cache.release(sequence)
    _idle(llm)


def test_a_strategy_from_outside_is_planned_without_its_own_tables(tiny_model_path) -> None:
    register_strategy("outside", lambda _: _core.ContiguousCache(2, 16, 4, False))
    plan = plan_memory(tiny_model_path("gemma3"), EngineConfig(**{**SMALL, "cache": "outside"}))
    assert plan.by_kind["prefix_cache"] == 0
    assert len(set(plan.n_blocks)) == 1  # it is taken to keep everything


def test_outlooks_tell_what_fits(tiny_model_path) -> None:
    path = tiny_model_path("gemma3")
    limit = plan_memory(path, _config("paged")).total_bytes
    planner = Planner(_core.GGUFFile(str(path)), _config("paged", memory_limit=limit))
    found = {(o.strategy, o.kv_type): o for o in planner.outlooks(tuple(STRATEGIES))}
    assert {kv_type for _, kv_type in found} <= set(get_args(KVType))
    for o in found.values():
        options = {**SMALL, **STRATEGIES["sliding_window"], "cache": o.strategy}
        del options["window"], options["sinks"]
        fits = _outlook_total(path, options, o.kv_type, o.largest_concurrency)
        assert fits <= limit
        assert _outlook_total(path, options, o.kv_type, o.largest_concurrency + 1) > limit
    assert found["paged", "f16"].largest_concurrency > found["paged", "f32"].largest_concurrency
    assert found["paged", "f16"].kv_bytes_per_token_far < found["paged", "f16"].kv_bytes_per_token


def _outlook_total(path: Path, options: dict[str, object], kv_type: str, n: int) -> int:
    options = {**options, "max_num_seqs": max(n, 1), "kv_type_k": kv_type, "kv_type_v": kv_type}
    planner = Planner(_core.GGUFFile(str(path)), EngineConfig(**options))
    demand = planner._demand(str(options["cache"]), planner.context_length, max(n, 1))
    need = kv_bytes(demand.counts_in_full(), planner._block_bytes(kv_type, kv_type))
    return plan_memory(path, EngineConfig(**options, kv_cache_memory=need)).total_bytes
