"""A strategy and an eviction policy written in Python, as docs/kv-cache.md shows them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache.steps import logits
from longbow_quarrel import SamplingParams, _core
from longbow_quarrel.cache import (
    CacheConfig,
    eviction_policies,
    make_cache,
    make_eviction_policy,
    register_eviction_policy,
    register_strategy,
    strategies,
)
from longbow_quarrel.errors import UsageError

DOCS = Path(__file__).parents[2] / "docs" / "kv-cache.md"
EXAMPLES: dict[str, Any] = {}
for example in re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL):
    if "register_" in example:  # "mru" and "lowest"
        exec(example, EXAMPLES)
MostRecentlyUsed: type[_core.EvictionPolicy] = EXAMPLES["MostRecentlyUsed"]


class Bump(_core.KVCache):
    """Blocks from a stack, no sharing, forks copy: a whole strategy."""

    def __init__(self, config: CacheConfig):
        super().__init__("bump", config.block_size, [(0, 0)] * len(config.groups))
        self.free = list(range(min(config.n_blocks)))
        self.n_blocks, self.next_id = len(self.free), 0
        self.blocks: dict[int, list[int]] = {}
        self.lengths: dict[int, int] = {}
        self.copies: list[tuple[int, int, int]] = []

    def match_prefix(self, prompt, max_tokens):  # noqa: ARG002 (nothing is reused)
        self.next_id += 1
        self.blocks[self.next_id], self.lengths[self.next_id] = [], 0
        return _core.PrefixMatch(self.next_id, 0, "disabled")

    def reserve(self, sequence, n_tokens):
        blocks = self.blocks[sequence]
        n = -(-(self.lengths[sequence] + n_tokens) // self.block_size) - len(blocks)
        if n > len(self.free):
            return _core.Reservation(False, "no_free_blocks")
        blocks += [self.free.pop() for _ in range(n)]
        return _core.Reservation(True)

    def commit(self, sequence, tokens):
        self.lengths[sequence] += len(tokens)

    def fork(self, sequence):
        child = self.match_prefix([], 0).sequence
        room = self.reserve(child, self.lengths[sequence])
        self.lengths[child] = self.lengths[sequence]
        for group in range(self.n_groups):
            pairs = zip(self.blocks[sequence], self.blocks[child], strict=False)
            self.copies += [(group, a, b) for a, b in pairs]
        return _core.Fork(room, child)

    def trim(self, sequence, n_tokens):
        self.lengths[sequence] = n_tokens
        return n_tokens

    def release(self, sequence):
        self.free += self.blocks.pop(sequence)
        del self.lengths[sequence]

    def n_tokens(self, sequence):
        return self.lengths[sequence]

    def block_tables(self, sequence):
        return [self.blocks[sequence]] * self.n_groups

    def take_copies(self):
        copies, self.copies = self.copies, []
        return copies

    def stats(self):
        stats = _core.CacheStats()
        stats.n_blocks, stats.n_sequences = self.n_blocks, len(self.blocks)
        stats.n_used_blocks = self.n_blocks - len(self.free)
        return stats

    def check_invariants(self):
        used = [block for blocks in self.blocks.values() for block in blocks]
        assert sorted(used + self.free) == list(range(self.n_blocks))


register_strategy("bump", Bump)


def _fill(cache: _core.KVCache, tokens: list[int]) -> int:
    match = cache.match_prefix(np.array(tokens, np.int32), 1000)
    rest = np.array(tokens[match.n_tokens :], np.int32)
    assert cache.reserve(match.sequence, len(rest))
    cache.commit(match.sequence, rest)
    return match.sequence


def test_a_policy_in_python_decides_what_goes() -> None:
    options = {"groups": [0], "block_size": 4, "n_blocks": [6]}
    survivors = {}
    for policy in ("lru", "mru"):
        cache = make_cache("paged", eviction=policy, **options)
        for first in (0, 100):
            cache.release(_fill(cache, list(range(first, first + 12))))
        cache.release(_fill(cache, list(range(200, 204))))  # one block has to go
        cache.check_invariants()
        survivors[policy] = [
            cache.match_prefix(np.arange(first, first + 13, dtype=np.int32), 13).n_tokens
            for first in (0, 100)
        ]
    assert survivors == {"lru": [8, 12], "mru": [12, 8]}


@pytest.mark.parametrize("victim", [-1, 1, 99])
def test_a_policy_that_names_a_block_it_does_not_have_is_refused(victim: int) -> None:
    class Broken(MostRecentlyUsed):
        def victim(self) -> int:
            return victim

    cache = _core.PagedCache([(0, 0)], 4, [2], [Broken(2)])
    cache.release(_fill(cache, list(range(4))))  # block 0 is cached
    sequence = _fill(cache, [50])  # block 1 is in use
    with pytest.raises(UsageError, match="expected the policy"):
        cache.reserve(sequence, 4)
    cache.check_invariants()


def test_an_exception_in_a_policy_reaches_the_caller() -> None:
    class Failing(MostRecentlyUsed):
        def victim(self) -> int:
            raise RuntimeError("no idea")

    cache = _core.PagedCache([(0, 0)], 4, [1], [Failing(1)])
    cache.release(_fill(cache, list(range(4))))
    sequence = cache.match_prefix(np.arange(50, 53, dtype=np.int32), 50).sequence
    with pytest.raises(RuntimeError, match="no idea"):
        cache.reserve(sequence, 3)
    cache.check_invariants()


def test_a_method_that_was_not_overridden_is_named() -> None:
    class Incomplete(_core.EvictionPolicy):
        def insert(self, block: int, use: _core.BlockUse) -> None: ...

    cache = _core.PagedCache([(0, 0)], 4, [1], [Incomplete()])
    cache.release(_fill(cache, list(range(4))))
    sequence = cache.match_prefix(np.arange(50, 53, dtype=np.int32), 50).sequence
    with pytest.raises(UsageError, match=r"Incomplete.* to define victim"):
        cache.reserve(sequence, 3)


@pytest.mark.parametrize("strategy", ["bump", "lowest"])
@pytest.mark.parametrize("model", ["llama3", "gemma3"])
def test_a_strategy_in_python_computes_the_same_bits(
    model: str, strategy: str, tiny_model_path
) -> None:
    def make(name: str):
        return lambda groups, n: make_cache(name, groups=groups, block_size=16, n_blocks=n)

    ids = np.arange(70, dtype=np.int32) % 50
    device = _core.CpuDevice(2)
    want = logits(tiny_model_path(model), make("contiguous"), device, ids, fork_at=40)
    assert logits(tiny_model_path(model), make(strategy), device, ids, fork_at=40) == want


def test_the_documented_strategy_serves_an_engine(tiny_llm) -> None:
    prompts = [[4, 5, 6], list(range(4, 60)), [9]]
    params = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
    texts = {
        cache: [o.token_ids for o in tiny_llm("gemma3", cache=cache).generate(prompts, params)]
        for cache in ("contiguous", "lowest")
    }
    assert texts["lowest"] == texts["contiguous"]


def test_examples_are_short() -> None:
    for block in re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL):
        assert len(block.strip().splitlines()) <= 30


def test_names_are_listed_and_taken_once() -> None:
    assert {"contiguous", "paged", "sliding_window", "bump", "lowest"} <= set(strategies())
    assert {"lru", "lfu", "fifo", "mru"} <= set(eviction_policies())
    with pytest.raises(UsageError, match="exists"):
        register_strategy("paged", Bump)
    with pytest.raises(UsageError, match="exists"):
        register_eviction_policy("lru", MostRecentlyUsed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "ring"}, "expected one of contiguous, paged"),
        ({"strategy": "paged", "eviction": "oldest"}, "eviction: expected one of"),
        ({"strategy": "sliding_window"}, "set --window"),
        ({"strategy": "paged", "groups": [0, 0]}, "for each of 2 layer groups"),
        ({"strategy": "paged", "block_size": 0}, "block size"),
    ],
)
def test_bad_choices_are_refused_by_name(options: dict, message: str) -> None:
    given = {"groups": [0], "block_size": 4, "n_blocks": [4], **options}
    with pytest.raises(UsageError, match=message):
        make_cache(given.pop("strategy"), **given)


def test_policies_are_fresh_for_each_group() -> None:
    assert make_eviction_policy("mru", 3) is not make_eviction_policy("mru", 3)
