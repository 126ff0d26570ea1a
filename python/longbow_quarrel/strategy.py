"""A base for cache strategies in Python: sequences with block tables of their own.

It keeps the books that every strategy without sharing needs; what is left is the strategy's own
decision, which blocks a sequence gets. A strategy that shares blocks, or lets go of some, derives
from ``_core.KVCache`` itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from longbow_quarrel import _core
from longbow_quarrel.cache import CacheConfig


@dataclass
class _Sequence:
    max_tokens: int
    n_tokens: int = 0
    blocks: list[int] = field(default_factory=list)


class BlockStrategy(_core.KVCache):
    """Override :meth:`take` and :meth:`give_back`; every layer group uses the same block ids.

    Attributes:
        n_total: blocks there are, numbered from 0.
    """

    def __init__(self, name: str, config: CacheConfig):
        super().__init__(name, config.block_size, [(0, 0)] * len(config.groups))
        self.n_total = min(config.n_blocks)
        self._sequences: dict[int, _Sequence] = {}
        self._next_id = 0
        self._copies: list[tuple[int, int, int]] = []
        self._n_copied = 0

    def take(self, n: int) -> list[int] | None:
        """``n`` blocks that nobody has, or None; then no block may change hands."""
        raise NotImplementedError

    def give_back(self, blocks: list[int]) -> None:
        """Nobody needs these any more."""
        raise NotImplementedError

    def match_prefix(self, prompt: NDArray[np.int32], max_tokens: int) -> _core.PrefixMatch:  # noqa: ARG002
        self._next_id += 1
        self._sequences[self._next_id] = _Sequence(max_tokens)
        return _core.PrefixMatch(self._next_id, 0, "disabled")

    def reserve(self, sequence: int, n_tokens: int) -> _core.Reservation:
        s = self._sequences[sequence]
        if s.n_tokens + n_tokens > s.max_tokens:
            return _core.Reservation(False, "sequence_full")
        n = -(-(s.n_tokens + n_tokens) // self.block_size) - len(s.blocks)
        blocks = self.take(n) if n > 0 else []
        if blocks is None:
            return _core.Reservation(False, "no_free_blocks")
        s.blocks += blocks
        return _core.Reservation(True)

    def commit(self, sequence: int, tokens: NDArray[np.int32]) -> None:
        self._sequences[sequence].n_tokens += len(tokens)

    def fork(self, sequence: int) -> _core.Fork:
        parent = self._sequences[sequence]
        child = self.match_prefix(np.empty(0, np.int32), parent.max_tokens).sequence
        room = self.reserve(child, parent.n_tokens)
        if not room:
            self.release(child)
            return _core.Fork(room, -1)
        copy = self._sequences[child]
        copy.n_tokens = parent.n_tokens
        pairs = list(zip(parent.blocks, copy.blocks, strict=False))
        for group in range(self.n_groups):
            self._copies += [(group, source, target) for source, target in pairs]
        self._n_copied += self.n_groups * len(pairs)
        return _core.Fork(room, child)

    def trim(self, sequence: int, n_tokens: int) -> int:
        s = self._sequences[sequence]
        s.n_tokens = n_tokens
        keep = -(-n_tokens // self.block_size)
        self.give_back(s.blocks[keep:])
        del s.blocks[keep:]
        return n_tokens

    def release(self, sequence: int) -> None:
        self.give_back(self._sequences.pop(sequence).blocks)

    def n_tokens(self, sequence: int) -> int:
        return self._sequences[sequence].n_tokens

    def block_tables(self, sequence: int) -> list[list[int]]:
        return [self._sequences[sequence].blocks] * self.n_groups

    def take_copies(self) -> list[tuple[int, int, int]]:
        copies, self._copies = self._copies, []
        return copies

    def stats(self) -> _core.CacheStats:
        stats = _core.CacheStats()
        stats.n_blocks = self.n_groups * self.n_total
        stats.n_sequences = len(self._sequences)
        stats.n_used_blocks = self.n_groups * len(self._used())
        stats.n_copied_blocks = self._n_copied
        return stats

    def check_invariants(self) -> None:
        used = self._used()
        assert len(used) == len(set(used)), "a block has two owners"
        assert all(0 <= block < self.n_total for block in used), "a block does not exist"
        for s in self._sequences.values():
            assert s.n_tokens <= len(s.blocks) * self.block_size, "a block table is too short"

    def _used(self) -> list[int]:
        return [block for s in self._sequences.values() for block in s.blocks]
