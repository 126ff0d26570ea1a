"""The log of the cache's events agrees with the counts of the cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from longbow_quarrel import LLM, SamplingParams, _core
from longbow_quarrel.errors import UsageError
from longbow_quarrel.profiling import Recorder, Recording

Load = Callable[..., LLM]
TEXT = list(range(5, 85))


def greedy(max_tokens: int = 8, **others: object) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, temperature=0, ignore_eos=True, **others)


def record(llm: LLM, *moves: Callable[[], object]) -> Recording:
    with Recorder(llm.engine) as recorder:
        for move in moves:
            move()
    assert recorder.recording.n_lost_events == 0
    return recorder.recording


def totals(recording: Recording, unit: str) -> Counter[str]:
    """Blocks or tokens by kind of event."""
    counts: Counter[str] = Counter()
    for event in recording.cache_events:
        counts[event.name] += int(event.details.get(unit, 0))
    return counts


def reasons(recording: Recording) -> list[str]:
    return [str(e.details["reason"]) for e in recording.cache_events if e.name == "miss"]


@pytest.mark.parametrize("cache", ["contiguous", "paged"])
def test_hits_and_misses(tiny_llm: Load, cache: str) -> None:
    llm = tiny_llm("qwen3", cache=cache)
    recording = record(llm, *[lambda: llm.generate([TEXT], greedy())] * 2)
    stats = llm.engine.runner.cache.stats()
    tokens = totals(recording, "tokens")
    assert tokens["hit"] == stats.n_prefix_hit_tokens > 0
    assert tokens["hit"] + tokens["miss"] == stats.n_prefix_queries_tokens == 2 * len(TEXT)
    assert reasons(recording)[0] == "empty"
    assert reasons(recording)[1] in ("none", "partial_block")


def test_a_paged_block_is_allocated_published_freed_evicted(tiny_llm: Load) -> None:
    per_token = tiny_llm("qwen3").engine.runner.kv_bytes_per_token
    llm = tiny_llm("qwen3", cache="paged", kv_cache_memory=per_token * 128)
    texts = [[50 + i] * 100 for i in range(3)]
    recording = record(llm, *[lambda t=t: llm.generate([t], greedy()) for t in texts])
    stats = llm.engine.runner.cache.stats()
    blocks = totals(recording, "blocks")
    assert blocks["evict"] == stats.n_evicted_blocks > 0
    assert blocks["allocate"] - blocks["evict"] - blocks["free"] == stats.n_cached_blocks
    assert blocks["publish"] - blocks["evict"] == stats.n_cached_blocks
    groups = {e.details.get("group") for e in recording.cache_events if e.name == "allocate"}
    assert groups == {0}


def test_a_contiguous_run_is_allocated_parked_evicted(tiny_llm: Load) -> None:
    per_token = tiny_llm("qwen3").engine.runner.kv_bytes_per_token
    llm = tiny_llm("qwen3", cache="contiguous", kv_cache_memory=per_token * 128)
    texts = [[50 + i] * 100 for i in range(3)]
    recording = record(llm, *[lambda t=t: llm.generate([t], greedy()) for t in texts])
    stats, blocks = llm.engine.runner.cache.stats(), totals(recording, "blocks")
    assert blocks["evict"] == stats.n_evicted_blocks == 2 * 7
    assert blocks["allocate"] == blocks["publish"] == 3 * 7


def test_blocks_that_leave_a_window(tiny_llm: Load) -> None:
    llm = tiny_llm("qwen3", cache="sliding_window", window=16, prefix_caching=False)
    recording = record(llm, lambda: llm.generate([[5] * 20], greedy(60)))
    blocks = totals(recording, "blocks")
    assert blocks["let_go"] == llm.engine.runner.cache.stats().n_window_blocks > 0


def test_forks_and_copies(tiny_llm: Load) -> None:
    for cache in ("contiguous", "paged"):
        llm = tiny_llm("qwen3", cache=cache)
        recording = record(llm, lambda llm=llm: llm.generate([TEXT[:20]], greedy(n=3)))
        assert totals(recording, "tokens")["fork"] == 2 * 20
        copies = llm.engine.runner.cache.stats().n_copied_blocks
        assert totals(recording, "blocks")["copy"] == copies > 0


def test_preemptions(tiny_llm: Load) -> None:
    per_token = tiny_llm("qwen3").engine.runner.kv_bytes_per_token
    llm = tiny_llm("qwen3", cache="paged", kv_cache_memory=per_token * 128)
    prompts = [[5 + i] * 20 for i in range(4)]
    recording = record(llm, lambda: llm.generate(prompts, greedy(40)))
    events = [e for e in recording.cache_events if e.name == "preempt"]
    assert len(events) == llm.engine.scheduler.n_preemptions > 0
    assert {e.details["reason"] for e in events} == {"no_free_blocks"}


def test_snapshots(tiny_llm: Load, tmp_path: Path) -> None:
    llm, other = tiny_llm("qwen3", cache="paged"), tiny_llm("qwen3", cache="paged")
    llm.generate([TEXT], greedy())
    saved = record(llm, lambda: llm.save_prefix_cache(tmp_path / "cache.kv"))
    assert totals(saved, "blocks")["save"] == 5
    loaded = record(other, lambda: other.load_prefix_cache(tmp_path / "cache.kv"))
    assert totals(loaded, "blocks")["load"] == 5
    assert totals(loaded, "blocks")["publish"] == 5
    talk = llm.engine.snapshots.compute(llm.engine.checked_prompt(TEXT[::-1]))
    resumed = record(llm, lambda: llm.generate([[*TEXT[::-1], 9]], greedy(), resume=talk))
    assert [e.name for e in resumed.cache_events].count("restore") == 1


def test_a_strategy_in_python_shows_its_matches(tiny_llm: Load) -> None:
    from longbow_quarrel.cache import register_strategy, strategies
    from longbow_quarrel.strategy import BlockStrategy

    class Stack(BlockStrategy):
        def __init__(self, config):
            super().__init__("stack", config)
            self.free = list(range(self.n_total))

        def take(self, n):
            return [self.free.pop() for _ in range(n)] if n <= len(self.free) else None

        def give_back(self, blocks):
            self.free += blocks

    if "stack" not in strategies():
        register_strategy("stack", Stack)
    llm = tiny_llm("qwen3", cache="stack")
    recording = record(llm, lambda: llm.generate([TEXT], greedy()))
    [miss] = recording.cache_events
    assert (miss.name, miss.details) == ("miss", {"tokens": 80, "reason": "disabled"})


def test_a_ring_keeps_the_last_events() -> None:
    ledger = _core.MemoryLedger(1 << 20)
    log = _core.CacheEventLog(ledger, 4)
    cache = _core.ContiguousCache(1, 8, 4, True)
    cache.set_event_log(log)
    for i in range(6):
        cache.release(cache.match_prefix(np.array([i], np.int32), 8).sequence)
    assert log.n_lost == 2
    assert len(log.events()) == 4
    assert (np.diff(log.events()[:, 0]) >= 0).all()
    cache.set_event_log(None)
    cache.match_prefix(np.array([1], np.int32), 8)
    assert log.n_lost == 2
    log.clear()
    assert len(log.events()) == 0


def test_a_track_that_does_not_exist() -> None:
    with pytest.raises(UsageError, match="a track below 2, got 2"):
        _core.SpanLog(_core.MemoryLedger(1 << 20), 2, 8).spans(2)
