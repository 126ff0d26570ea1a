"""How fast this machine reads memory: the limit of decoding."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

_PASSES = 5


def memory_bandwidth(n_threads: int, mebibytes: int = 256) -> float:
    """Bytes per second that all threads together read from memory, best of five passes.

    Args:
        mebibytes: how much is read in a pass; more than the caches hold.
    """
    data = np.ones(mebibytes << 17, np.int64)
    parts = np.array_split(data, n_threads)
    best = 0.0
    with ThreadPoolExecutor(n_threads) as pool:
        for _ in range(_PASSES):
            started = time.perf_counter()
            list(pool.map(np.sum, parts))
            best = max(best, data.nbytes / (time.perf_counter() - started))
    return best


class BandwidthMeter:
    """The best bandwidth seen in a run.

    A shared machine has slow moments, so one measurement at the start says little: :meth:`sample`
    between two rows finds the limit that held while they were measured.
    """

    def __init__(self, n_threads: int, mebibytes: int = 256) -> None:
        self._n_threads = n_threads
        self._mebibytes = mebibytes
        self.best = 0.0
        """Bytes per second."""

    def sample(self) -> float:
        """Measure again; the best so far, in bytes per second."""
        self.best = max(self.best, memory_bandwidth(self._n_threads, self._mebibytes))
        return self.best
