"""Moves of the state machine that save and restore, beside the naive twin of ``twin.py``."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cache.twin import Content, Twin, TwinSequence
from longbow_quarrel import _core

IDENTITY = [("model", "twin")]


class TwinStore(_core.BlockStore):
    """The twin's dictionary as the memory behind blocks: each slot's content by its number."""

    def __init__(self, twin: Twin) -> None:
        super().__init__()
        self.twin = twin
        self.numbers: dict[Content, int] = {(): 0}
        self.contents: list[Content] = [()]

    def block_bytes(self, group: int) -> int:  # noqa: ARG002 (all groups are alike)
        return 8 * self.twin.cache.block_size

    def slots(self, group: int, block: int) -> list[tuple[int, int]]:
        size = self.twin.cache.block_size
        return [(group, block * size + i) for i in range(size)]

    def read_block(self, group: int, block: int) -> bytes:
        contents = [self.twin.memory.get(slot, ()) for slot in self.slots(group, block)]
        for content in contents:
            if content not in self.numbers:
                self.numbers[content] = len(self.contents)
                self.contents.append(content)
        return np.array([self.numbers[c] for c in contents], np.int64).tobytes()

    def write_block(self, group: int, block: int, data: bytes) -> None:
        numbers = np.frombuffer(data, np.int64)
        for slot, number in zip(self.slots(group, block), numbers, strict=True):
            self.twin.memory[slot] = self.contents[number]

    def copy_block(self, group: int, source: int, target: int) -> None:
        self.write_block(group, target, self.read_block(group, source))


@dataclass
class Saved:
    snapshot: _core.SequenceSnapshot
    tokens: list[int]
    max_tokens: int


class SavingTwin:
    """A twin that also saves and restores."""

    def __init__(self, twin: Twin) -> None:
        self.twin = twin
        self.store = TwinStore(twin)
        self.ledger = _core.MemoryLedger(1 << 30)

    def save(self, sequence: TwinSequence, *, whole: bool) -> Saved:
        tokens = np.array(sequence.tokens, np.int32)
        snapshot = _core.SequenceSnapshot(
            self.twin.cache, self.store, sequence.id, tokens, self.ledger, whole
        )
        return Saved(snapshot, list(sequence.tokens), sequence.max_tokens)

    def restore(self, saved: Saved) -> TwinSequence | None:
        cache = self.twin.cache
        before = cache.stats()
        restored = saved.snapshot.restore(cache, self.store, saved.max_tokens)
        if not restored.reservation:
            after = cache.stats()
            assert restored.reservation.reason == "no_free_blocks"
            assert after.n_sequences == before.n_sequences
            assert after.n_used_blocks == before.n_used_blocks
            return None
        sequence = TwinSequence(restored.sequence, saved.max_tokens, list(saved.tokens))
        self.twin.sequences.append(sequence)
        return sequence

    def through_a_file(self, fresh: _core.KVCache | None) -> None:
        """Save the prefix cache and load it: into itself, or into ``fresh``, with memory that
        holds nothing, as after a restart. Nobody may be left for a restart."""
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "cache.kv")
            saved = _core.save_prefix_cache(path, self.twin.cache, self.store, IDENTITY)
            before = self.twin.cache.stats()
            if fresh is not None:
                assert not self.twin.sequences
                self.twin.cache = fresh
                self.twin.memory.clear()
            taken = _core.load_prefix_cache(path, self.twin.cache, self.store, IDENTITY)
        after = self.twin.cache.stats()
        assert after.n_used_blocks == (0 if fresh is not None else before.n_used_blocks)
        assert taken.n_blocks <= saved.n_blocks
        if fresh is None and self.twin.cache.strategy != "contiguous":
            assert taken.n_blocks == 0  # it is all there already
            assert after.n_cached_blocks == before.n_cached_blocks
        if fresh is not None:
            assert after.n_cached_blocks == taken.n_blocks
            if self.twin.cache.strategy == "paged" and before.n_evicted_blocks == 0:
                assert taken.n_blocks == saved.n_blocks  # the pools are as large
