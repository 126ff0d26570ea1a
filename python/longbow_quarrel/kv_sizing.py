"""How many blocks each layer group of a KV cache gets.

A group that keeps everything needs a block for every block of tokens. A group with a window holds,
per running sequence, the blocks that overlap its window and the next step, and its sinks: beyond
that, memory is better spent on groups that keep everything. What running sequences leave free of it
serves prefix reuse: a cached text can be resumed only where its window is still there, so with all
sequences running at full length few cached texts of a hybrid model can be. A larger
``max_num_seqs`` buys more of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from longbow_quarrel.errors import UsageError

Span = tuple[int, int]  # window and sinks that a group keeps, in tokens; window 0: everything


def blocks_for(n_tokens: int, block_size: int) -> int:
    """Blocks that hold ``n_tokens``."""
    return -(-n_tokens // block_size)


@dataclass(frozen=True)
class Demand:
    """What a cache is to serve.

    Attributes:
        max_num_seqs: sequences at the same time.
        context_length: tokens of each.
        max_step_tokens: tokens of one sequence that a step computes.
    """

    spans: tuple[Span, ...]
    block_size: int
    max_num_seqs: int
    context_length: int
    max_step_tokens: int

    @property
    def has_full_group(self) -> bool:
        return any(window == 0 for window, _ in self.spans)

    def of_sequence(self, span: Span) -> int:
        """Blocks of a group that one sequence of ``context_length`` tokens takes at most."""
        window, sinks = span
        all_of_it = blocks_for(self.context_length, self.block_size)
        if window == 0:
            return all_of_it
        # A span of n tokens overlaps one block more than it fills, wherever it begins.
        overlapped = blocks_for(window - 1 + self.max_step_tokens, self.block_size) + 1
        return min(all_of_it, overlapped + blocks_for(sinks, self.block_size))

    def counts(self, n_full: int) -> tuple[int, ...]:
        """Blocks of each group where those that keep everything get ``n_full``."""
        return tuple(
            n_full if span[0] == 0 else min(n_full, self.max_num_seqs * self.of_sequence(span))
            for span in self.spans
        )

    def counts_in_full(self) -> tuple[int, ...]:
        """Blocks of each group with which every sequence can reach ``context_length``."""
        return tuple(self.max_num_seqs * self.of_sequence(span) for span in self.spans)


def kv_bytes(counts: Sequence[int], block_bytes: Sequence[int]) -> int:
    """Bytes of ``counts`` blocks of each group."""
    return sum(n * b for n, b in zip(counts, block_bytes, strict=True))


def largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest n up to ``most`` that fits, 0 if 1 does not; what is smaller fits too."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low


def counts_for_bytes(demand: Demand, block_bytes: Sequence[int], n_bytes: int) -> tuple[int, ...]:
    """Blocks of each group that ``n_bytes`` buy.

    Raises:
        UsageError: not even one block of each group, or one sequence where all groups have windows.
    """
    if demand.has_full_group:
        most = n_bytes // min(block_bytes)
        n = largest(lambda n: kv_bytes(demand.counts(n), block_bytes) <= n_bytes, most)
        if n == 0:
            raise UsageError(
                f"kv_cache_memory: one block takes {sum(block_bytes)} bytes; give at least that."
            )
        return demand.counts(n)
    one = tuple(demand.of_sequence(span) for span in demand.spans)
    least = kv_bytes(one, block_bytes)
    if n_bytes < least:
        raise UsageError(
            f"kv_cache_memory: the windows of one sequence take {least} bytes; give at least that, "
            "or lower window, sinks or max_num_batched_tokens."
        )
    return tuple(n * n_bytes // least for n in one)
