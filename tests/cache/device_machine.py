"""The state machine with a device behind it: block tables, slots and block copies reach kernels.

Beside the twin's dictionary of contents there is the device's memory. Every step of the machine is
computed, and every row's logits must be, bit for bit, those of the same text computed alone in a
cache where nothing is shared, moved, saved or let go of.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cache.machine import CacheMachine, Made, made
from cache.snapshot_moves import SavingTwin, TwinStore
from cache.twin import Twin, TwinSequence
from longbow_quarrel import _core, models
from longbow_quarrel.cache import make_cache

BLOCK_SIZE = 8  # what Metal's tiles allow at least
LONGEST = 256  # tokens of a step or a text
GARBAGE = 2  # no text has it


class DeviceModel:
    """A tiny model on a device, and what texts give when they are computed alone."""

    def __init__(self, device: _core.Device, path: Path) -> None:
        self.device = device
        self.ledger = _core.MemoryLedger(1 << 30)
        self.file = _core.GGUFFile(str(path))
        parameters, self.program = models.record(self.file)
        self.vocab_size = parameters.vocab_size
        self.windows = [group.window for group in self.program.groups]
        self.executable = device.compile(
            self.program,
            LONGEST,
            self.ledger,
            max_selected_rows=LONGEST,
            max_context_tokens=LONGEST,
        )
        self._alone: dict[tuple[tuple[int, int], ...], dict[tuple[int, ...], bytes]] = {}

    def storage(self, n_blocks: list[int]) -> _core.KVStorage:
        return self.device.allocate_kv(
            self.program, BLOCK_SIZE, n_blocks, "F32", "F16", self.ledger
        )

    def runner(
        self,
        storage: _core.KVStorage,
        cache: _core.KVCache,
        masks: list[tuple[int, int]] | None = None,
    ) -> _core.StepRunner:
        return _core.StepRunner(self.executable, storage, cache, self.vocab_size, masks or [])

    def alone(self, text: tuple[int, ...], masks: list[tuple[int, int]]) -> bytes:
        """Logits of the last token of a text under these masks."""
        known = self._alone.setdefault(tuple(masks), {})
        if text not in known:
            n_blocks = [LONGEST // BLOCK_SIZE] * len(self.windows)
            cache = make_cache(
                "contiguous", groups=self.windows, block_size=BLOCK_SIZE, n_blocks=n_blocks
            )
            ids = np.array(text, np.int32)
            sequence = cache.match_prefix(ids, len(ids)).sequence
            assert cache.reserve(sequence, len(ids))
            runner = self.runner(self.storage(n_blocks), cache, masks)
            for end, row in enumerate(run(runner, {sequence: ids}), start=1):
                known[text[:end]] = row.tobytes()
        return known[text]


def run(runner: _core.StepRunner, parts: dict[int, np.ndarray]) -> np.ndarray:
    """One step; logits of all its tokens, a copy."""
    starts = np.cumsum([0, *map(len, parts.values())]).astype(np.int32)
    tokens = np.concatenate(list(parts.values())).astype(np.int32)
    rows = np.arange(len(tokens), dtype=np.int32)
    return runner.run(np.array(list(parts), np.int64), starts, tokens, rows).copy()


class DeviceTwin(Twin):
    """A twin whose steps are computed."""

    def __init__(self, new: Made, model: DeviceModel) -> None:
        self.model = model
        super().__init__(new.cache, new.n_blocks, new.max_step_tokens)
        self._restarted_for: _core.KVCache | None = None

    @property
    def storage(self) -> _core.KVStorage:
        """Memory that holds nothing whenever the cache is another one."""
        if self._restarted_for is not self.cache:
            self._restarted_for = self.cache
            self._storage = self.model.storage(self.n_blocks)
            self._runner = self.model.runner(self._storage, self.cache)
        return self._storage

    def copy_block(self, group: int, source: int, target: int) -> None:
        super().copy_block(group, source, target)
        self.storage.copy_block(group, source, target)

    def compute(self, parts: list[tuple[TwinSequence, list[int]]], *, succeeds: bool) -> None:
        self.apply_copies()
        parts = [(sequence, tokens) for sequence, tokens in parts if tokens]
        if parts:
            self._step(parts, succeeds=succeeds)
        super().compute(parts, succeeds=succeeds)

    def _step(self, parts: list[tuple[TwinSequence, list[int]]], *, succeeds: bool) -> None:
        assert self.storage
        ids = {
            sequence.id: np.array(tokens if succeeds else [GARBAGE] * len(tokens), np.int32)
            for sequence, tokens in parts
        }
        logits = iter(run(self._runner, ids))
        if not succeeds:
            return
        masks = [self.cache.group_spec(g) for g in range(self.cache.n_groups)]
        for sequence, tokens in parts:
            text = (*sequence.tokens, *tokens)
            self.model.alone(text, masks)  # all of its beginnings at once
            for end in range(len(sequence.tokens) + 1, len(text) + 1):
                assert next(logits).tobytes() == self.model.alone(text[:end], masks), text[:end]


class DeviceStore(TwinStore):
    """Blocks of the twin's dictionary and of the device's memory, one behind the other."""

    twin: DeviceTwin

    def block_bytes(self, group: int) -> int:
        return super().block_bytes(group) + self.twin.storage.block_bytes(group)

    def read_block(self, group: int, block: int) -> bytes:
        return super().read_block(group, block) + self.twin.storage.read_block(group, block)

    def write_block(self, group: int, block: int, data: bytes) -> None:
        n = super().block_bytes(group)
        super().write_block(group, block, data[:n])
        self.twin.storage.write_block(group, block, data[n:])


class DeviceMachine(CacheMachine):
    """Subclasses have ``make`` and ``model``."""

    model: DeviceModel

    def make_twin(self, new: Made) -> SavingTwin:
        twin = DeviceTwin(new, type(self).model)
        saving = SavingTwin(twin)
        saving.store = DeviceStore(twin)
        return saving


def device_machine(model: DeviceModel, strategy: str, n_blocks: int, **options) -> type:
    """A machine that drives a cache of ``strategy``, with as many groups as the model has."""
    groups = model.windows
    make = made(
        strategy,
        groups=groups,
        n_blocks=[n_blocks + 2 * g for g in range(len(groups))],
        block_size=BLOCK_SIZE,
        **options,
    )
    return type(
        f"Machine_{strategy}", (DeviceMachine,), {"make": staticmethod(make), "model": model}
    )
