"""Strategies to try out, good and bad, as somebody outside the engine would write them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from longbow_quarrel import _core
from longbow_quarrel.cache import CacheConfig, register_strategy
from longbow_quarrel.strategy import BlockStrategy


class Good(BlockStrategy):
    """Hands out the lowest free blocks."""

    def __init__(self, config: CacheConfig) -> None:
        super().__init__("good", config)
        self.free = list(range(self.n_total))

    def take(self, n: int) -> list[int] | None:
        if n > len(self.free):
            return None
        self.free.sort()
        taken, self.free = self.free[:n], self.free[n:]
        return taken

    def give_back(self, blocks: list[int]) -> None:
        self.free += blocks


class Faulty(Good):
    """Good until ``fault`` is set: then its faults begin, for all that come after."""

    begun = threading.Event()

    @property
    def is_on(self) -> bool:
        return self.begun.is_set()


class SharesBlocks(Faulty):
    """Gives a block to two sequences: each overwrites the other's K and V."""

    def take(self, n: int) -> list[int] | None:
        blocks = super().take(n)
        if self.is_on and blocks:
            self.free.insert(0, blocks[0])
        return blocks

    def check_invariants(self) -> None:
        """A strategy that is wrong about its blocks may be wrong about this, too."""


class SwapsBlocks(Faulty):
    """Puts the blocks of a text in the wrong order once there are three of them."""

    def block_tables(self, sequence: int) -> list[list[int]]:
        tables = super().block_tables(sequence)
        if not self.is_on:
            return tables
        return [[t[1], t[0], *t[2:]] if len(t) > 2 else t for t in tables]


class LosesBlocks(Faulty):
    """Takes nothing back, and so runs out."""

    def give_back(self, blocks: list[int]) -> None:
        if not self.is_on:
            super().give_back(blocks)


class Raises(Faulty):
    def commit(self, sequence: int, tokens: NDArray[np.int32]) -> None:
        if self.is_on and self.n_tokens(sequence) > 20:
            raise RuntimeError("lost the thread")
        super().commit(sequence, tokens)


class CannotLetGo(Raises):
    def release(self, sequence: int) -> None:
        if self.is_on:
            raise RuntimeError("cannot let go")
        super().release(sequence)


class Slow(Faulty):
    """As if its bookkeeping were expensive."""

    def reserve(self, sequence: int, n_tokens: int) -> _core.Reservation:
        if self.is_on:
            time.sleep(0.02)
        return super().reserve(sequence, n_tokens)


class Contradicts(Faulty):
    """Its own check of its books fails, though no text has suffered so far."""

    def check_invariants(self) -> None:
        assert not self.is_on, "a block has two owners"


FAULTS: dict[str, tuple[type[Faulty], set[str]]] = {
    "shares-blocks": (SharesBlocks, {"bits", "tokens"}),
    "swaps-blocks": (SwapsBlocks, {"bits", "tokens"}),
    "loses-blocks": (LosesBlocks, {"refused", "preempted"}),
    "raises": (Raises, {"error"}),
    "cannot-let-go": (CannotLetGo, {"error"}),
    "slow": (Slow, {"slow"}),
    "contradicts": (Contradicts, {"invariant"}),
}


def register() -> None:
    """Make them selectable by name; once per process."""
    strategies: dict[str, Callable[[CacheConfig], _core.KVCache]] = {"good": Good}
    strategies |= {name: cls for name, (cls, _) in FAULTS.items()}
    for name, cls in strategies.items():
        register_strategy(name, cls)


register()
