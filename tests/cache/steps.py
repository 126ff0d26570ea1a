"""Real steps on a device, over any cache: what strategies must agree on, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from longbow_quarrel import _core, models

MakeCache = Callable[[list[int], list[int]], _core.KVCache]


class Steps:
    """Computes sequences of a model over a cache with ``n_blocks`` blocks per group.

    make: called with each group's window and number of blocks.
    """

    def __init__(self, path: Path, make: MakeCache, device: _core.Device, n_blocks: int = 64):
        self.file = _core.GGUFFile(str(path))
        parameters, program = models.record(self.file)
        self.vocab_size = parameters.vocab_size
        windows = [group.window for group in program.groups]
        ledger = _core.MemoryLedger(1 << 30)
        counts = [n_blocks] * len(windows)
        self.cache = make(windows, counts)
        storage = device.allocate_kv(program, self.cache.block_size, counts, "F32", "F32", ledger)
        executable = device.compile(program, 256, ledger)
        self.runner = _core.StepRunner(executable, storage, self.cache, self.vocab_size)

    def open(self, ids: np.ndarray, max_tokens: int = 200) -> _core.PrefixMatch:
        return self.cache.match_prefix(ids, max_tokens)

    def compute(self, parts: dict[int, np.ndarray]) -> bytes:
        """One step that appends ``parts[sequence]`` (int32) to each sequence; its logits."""
        for sequence, ids in parts.items():
            assert self.cache.reserve(sequence, len(ids))
        starts = np.cumsum([0, *map(len, parts.values())]).astype(np.int32)
        tokens = np.concatenate(list(parts.values()))
        rows = np.arange(len(tokens), dtype=np.int32)
        result = self.runner.run(np.array(list(parts), np.int64), starts, tokens, rows).tobytes()
        for sequence, ids in parts.items():
            self.cache.commit(sequence, ids)
        self.cache.check_invariants()
        return result


def logits(
    path: Path, make: MakeCache, device: _core.Device, ids: np.ndarray, fork_at: int
) -> list[bytes]:
    """Logits of a text, of a fork that goes another way, and of the text once more, warm."""
    steps = Steps(path, make, device)
    parent = steps.open(ids).sequence
    result = [steps.compute({parent: ids[:fork_at]})]
    child = steps.cache.fork(parent).sequence
    ways = {parent: ids[fork_at:], child: ids[fork_at:][::-1].copy()}
    result.append(steps.compute(ways))
    for sequence in (parent, child):
        steps.cache.release(sequence)
    again = steps.open(ids)
    warm = steps.compute({again.sequence: ids[again.n_tokens :]})
    result.append(warm[-4 * steps.vocab_size :])  # how much was left to compute differs
    return result
