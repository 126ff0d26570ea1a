"""Requests through the engine, with their times, and the metrics beside them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from longbow_quarrel import LLM, SamplingParams
from longbow_quarrel.benchmarking.load import Loader
from longbow_quarrel.benchmarking.process_memory import peak_resident_bytes, resident_bytes
from longbow_quarrel.benchmarking.summary import Summary
from longbow_quarrel.errors import ContextLengthError


def test_times_and_tokens_of_requests(tiny_llm: Callable[..., LLM]) -> None:
    llm = tiny_llm("llama3", prefix_caching=False, context_length=128)
    prompts = [np.arange(10 + i, 40 + 2 * i, dtype=np.int32) for i in range(3)]
    params = SamplingParams(max_tokens=6, temperature=0, ignore_eos=True)
    alone = [tuple(llm.generate(p.tolist(), params)[0].token_ids) for p in prompts]
    loader = Loader(llm.engine, "test")
    found = loader.run(prompts, 6)
    assert list(found.outputs) == alone
    assert found.n_generated == 18
    for request in found.requests:
        assert 0 < request.ttft < request.total <= found.seconds
        assert len(request.gaps) == 5
        assert request.ttft + sum(request.gaps) == pytest.approx(request.total)
        assert request.tpot == pytest.approx(sum(request.gaps) / 5)
    assert found.decode_rate > 0
    assert loader.run(prompts, 6).token_hash == found.token_hash
    assert loader.run(prompts[::-1], 6).token_hash != found.token_hash


def test_figures_are_those_of_the_metrics(tiny_llm: Callable[..., LLM]) -> None:
    llm = tiny_llm("llama3", cache="paged", context_length=128)
    loader = Loader(llm.engine, "test")
    found = loader.run([np.arange(5, 69, dtype=np.int32)], 4)
    per_block = llm.stats()["memory"]["by_kind"]["kv"] / llm.stats()["cache"]["n_blocks"]
    # 64 tokens and the first one that follows, in blocks of 16.
    assert found.peaks["kv_cache_used_bytes"] == pytest.approx(4 * per_block)
    assert found.peaks["kv_cache_capacity_bytes"] == llm.stats()["memory"]["by_kind"]["kv"]
    assert found.peaks["device_memory_allocated_bytes"] == llm.stats()["memory"]["used_bytes"]
    samples = loader.scrape()
    assert samples["time_to_first_token_seconds_count"] == 1
    assert samples["inter_token_latency_seconds_count"] == 3
    assert samples["kv_cache_used_bytes"] == 0


def test_a_prompt_that_does_not_fit(tiny_llm: Callable[..., LLM]) -> None:
    loader = Loader(tiny_llm("llama3", context_length=32).engine, "test")
    with pytest.raises(ContextLengthError):
        loader.run([np.arange(40, dtype=np.int32)], 4)


def test_summary() -> None:
    summary = Summary.of([float(i) for i in range(101)])
    assert (summary.mean, summary.p50, summary.p90, summary.p99) == (50, 50, 90, 99)
    assert summary.n == 101


def test_memory_of_the_process() -> None:
    before = resident_bytes()
    held = np.ones(32 << 17)
    assert resident_bytes() > before + held.nbytes * 0.9
    del held
    assert peak_resident_bytes() >= before + (30 << 20)
