"""The workload in which eviction matters: deterministic figures, and a policy that is better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from longbow_quarrel import EngineConfig
from longbow_quarrel.benchmarking.contender import (
    Contender,
    parse_contender,
    parse_contenders,
    with_policies,
)
from longbow_quarrel.benchmarking.reuse import ReuseRow, ReuseWorkload, _longest_known, run_reuse
from longbow_quarrel.errors import UsageError

SMALL = ReuseWorkload(
    n_systems=2, system=32, n_chats=6, n_turns=3, question=12, answer=4, n_documents=5, document=64
)
BASE = EngineConfig(n_threads=1)


def run(path: Path, names: str, workload: ReuseWorkload = SMALL) -> dict[str, ReuseRow]:
    contenders = parse_contenders(names, BASE)
    rows = run_reuse(path, contenders, workload, lambda _: None)
    return {row.contender: row for row in rows}


def test_figures_agree_and_repeat(tiny_model_path: Callable[[str], Path]) -> None:
    path, names = tiny_model_path("llama3"), "paged,contiguous,paged:eviction=fifo"
    rows = run(path, names)
    for row in rows.values():
        assert row.n_requests == SMALL.n_requests == 23
        assert 0 < row.hit_tokens < row.possible_tokens < row.prompt_tokens
        assert row.recomputed_tokens == row.possible_tokens - row.hit_tokens
        assert row.hit_tokens + sum(row.miss_tokens.values()) == row.prompt_tokens
        assert row.ttft is not None
        assert row.ttft.n == row.n_requests
    assert len({row.kv_cache_bytes for row in rows.values()}) == 1
    assert rows["paged"].evicted_blocks > 0
    again = run(path, names)
    for name, row in rows.items():
        assert replace(again[name], ttft=row.ttft, seconds=row.seconds) == row


def test_an_ample_budget_loses_nothing_but_partial_blocks(
    tiny_model_path: Callable[[str], Path],
) -> None:
    ample = replace(SMALL, budget_share=1.5)
    rows = run(tiny_model_path("llama3"), "paged:block_size=8,paged", ample)
    assert rows["paged:block_size=8"].evicted_blocks == 0
    assert rows["paged:block_size=8"].recomputed_tokens < 8 * ample.n_requests
    tight = run(tiny_model_path("llama3"), "paged")["paged"]
    assert tight.hit_rate < rows["paged"].hit_rate


def test_a_contender_that_cannot_run_says_why(tiny_model_path: Callable[[str], Path]) -> None:
    tiny = replace(SMALL, n_chats=1, n_turns=1, n_documents=0, n_systems=1, budget_share=0.01)
    contenders = [
        parse_contender("paged", BASE),
        Contender("wide", BASE.model_copy(update={"cache": "sliding_window", "block_size": 256})),
    ]
    rows = run_reuse(tiny_model_path("llama3"), contenders, tiny, lambda _: None)
    assert rows[0].refusal == ""
    assert "kv_cache_memory" in rows[1].refusal
    assert rows[1].ttft is None


def test_what_could_have_been_known() -> None:
    prompt = np.array([1, 2, 3, 4], np.int32)
    assert _longest_known(prompt, []) == 0
    assert _longest_known(prompt, [np.array([1, 2, 9]), np.array([1])]) == 2
    assert _longest_known(prompt, [np.array([1, 2, 3, 4, 5])]) == 3  # the last is computed anyway


def test_contenders_are_parsed() -> None:
    found = parse_contenders("contiguous, paged:ctk=q8_0:ctv=q4_0:block-size=32", BASE)
    assert [c.name for c in found] == ["contiguous", "paged:ctk=q8_0:ctv=q4_0:block-size=32"]
    config = found[1].config
    assert (config.cache, config.kv_type_k, config.kv_type_v) == ("paged", "q8_0", "q4_0")
    assert (config.block_size, config.n_threads) == (32, 1)
    names = [
        c.name for c in with_policies(parse_contenders("contiguous,paged", BASE), ["lru", "x"])
    ]
    assert names == ["contiguous", "paged:eviction=lru", "paged:eviction=x"]
    defaults = {c.config.cache for c in parse_contenders(None, BASE)}
    assert {"contiguous", "paged", "sliding_window"} <= defaults


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("ring", "expected one of contiguous"),
        ("paged:lfu", "must be written OPTION=VALUE"),
        ("paged:evict=lru", "no option 'evict'; did you mean 'eviction'"),
        ("paged,paged", "twice"),
        ("paged:block_size=7", "block_size"),
    ],
)
def test_misuse_is_named(text: str, part: str) -> None:
    with pytest.raises(UsageError, match=part):
        parse_contenders(text, BASE)
