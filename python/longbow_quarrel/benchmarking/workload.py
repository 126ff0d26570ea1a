"""What is measured: prompts of some length, or single tokens, at some depth, for some texts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SEED = 20_231_123


@dataclass(frozen=True)
class Workload:
    """One row of ``bench``: ``n_prompt`` tokens at once or ``n_gen`` one by one, never both.

    Attributes:
        depth: tokens that every sequence has before.
        batch: sequences side by side.
    """

    n_prompt: int
    n_gen: int
    depth: int = 0
    batch: int = 1

    def __post_init__(self) -> None:
        assert (self.n_prompt == 0) != (self.n_gen == 0), "a workload prefills or decodes"

    @property
    def is_decode(self) -> bool:
        return self.n_gen > 0

    @property
    def n_new(self) -> int:
        """Tokens that are measured, of each sequence."""
        return self.n_gen or self.n_prompt

    @property
    def length(self) -> int:
        """Tokens of each sequence in the end."""
        return self.depth + self.n_new

    @property
    def label(self) -> str:
        """As llama-bench writes it: ``pp512``, ``tg128 @ d4096``."""
        name = f"tg{self.n_gen}" if self.is_decode else f"pp{self.n_prompt}"
        return f"{name} @ d{self.depth}" if self.depth else name

    def tokens(self, vocab_size: int) -> NDArray[np.int32]:
        """Token ids of all sequences, [batch, length]; the same for equal workloads."""
        random = np.random.default_rng([_SEED, self.n_prompt, self.n_gen, self.depth, self.batch])
        return random.integers(0, vocab_size, (self.batch, self.length), np.int32)


def workloads(
    prompts: Iterable[int], gens: Iterable[int], depths: Iterable[int], batches: Iterable[int]
) -> list[Workload]:
    """All combinations in llama-bench's order: at each depth prompts first, then decodes.

    Zeros among ``prompts`` and ``gens`` stand for no such row.
    """
    lengths = [(n, 0) for n in prompts if n] + [(0, n) for n in gens if n]
    return [
        Workload(n_prompt, n_gen, depth, batch)
        for depth in depths
        for batch in batches
        for n_prompt, n_gen in lengths
    ]
