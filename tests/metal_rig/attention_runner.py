"""Runs the attention kernels as a host does: caches, block tables, work items, dispatches."""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

import reference
from metal_rig.gpu.catalogue import attention_constants, decode_memory
from metal_rig.kernels import Library, Order, run_kernel
from metal_rig.kv_pack import head_bytes, pack, store
from metal_rig.shaders import SHADERS, shader_source

F32 = npt.NDArray[np.float32]
GROUP_LIMIT = 8  # kAttentionMaxGroup
THREADS = 128  # kAttentionThreads
SIMDGROUPS = 4
PREFILL_ROWS = 32  # kPrefillRows


@dataclass(frozen=True)
class Shape:
    """What pipelines are specialised for, and the mask."""

    head_dim: int = 64
    n_heads: int = 4
    n_kv_heads: int = 2
    k_type: str = "f16"
    v_type: str = "f16"
    block_size: int = 16
    partition: int = 64
    round: int = 32
    window: int = 0
    sinks: int = 0
    softcap: float = 0.0

    @property
    def ratio(self) -> int:
        return self.n_heads // self.n_kv_heads

    @property
    def group(self) -> int:
        """Query heads of a threadgroup: as even a split of the ratio as the limit allows."""
        return -(-self.ratio // -(-self.ratio // GROUP_LIMIT))

    @property
    def n_splits(self) -> int:
        return -(-self.ratio // self.group)

    @property
    def constants(self) -> dict[int, np.generic]:
        types = (self.block_size, self.k_type, self.v_type)
        return attention_constants(self.head_dim, *types, self.group, self.partition, self.round)

    def params(self, max_blocks: int, max_slots: int) -> bytes:
        return struct.pack(
            "6I2f",
            self.n_heads,
            self.n_kv_heads,
            max_blocks,
            max_slots,
            self.window,
            self.sinks,
            1.0 / math.sqrt(self.head_dim),
            self.softcap,
        )

    def n_slots(self, position: int) -> int:
        """Partitions that a query reads; attention_slots of params.h, counted plainly."""
        seen = reference.attention_mask(
            [position], np.arange(position + 1), self.window or None, self.sinks
        )[0]
        begin = max(0, position + 1 - self.window) if self.window else 0
        seen[begin:] = True
        return len(set(np.flatnonzero(seen) // self.partition))


@dataclass
class Sequence_:
    """One text: queries of its last tokens, K and V of all of them, as stored."""

    q: F32  # [n_new, n_heads, head_dim]
    k: F32  # [n, n_kv_heads, head_dim]
    v: F32

    @property
    def length(self) -> int:
        return len(self.k)


def random_sequence(shape: Shape, length: int, n_new: int, seed: int) -> Sequence_:
    rng = np.random.default_rng([seed, length])
    k, v = rng.standard_normal((2, length, shape.n_kv_heads, shape.head_dim)).astype(np.float32)
    q = rng.standard_normal((length, shape.n_heads, shape.head_dim)).astype(np.float32)
    return Sequence_(q[length - n_new :], k, v)


@dataclass
class Batch:
    """Sequences in a cache: blocks in any order, memory that nobody wrote filled with NaN."""

    shape: Shape
    sequences: Sequence[Sequence_]
    shuffled: bool = True
    keep: int | None = None  # let go of blocks that the window has left; None: keep all
    tables: npt.NDArray[np.int32] = field(init=False)
    caches: list[npt.NDArray[np.uint8]] = field(init=False)

    def __post_init__(self) -> None:
        size = self.shape.block_size
        counts = [-(-s.length // size) for s in self.sequences]
        order = np.arange(sum(counts))
        if self.shuffled:
            order = np.random.default_rng(len(order)).permutation(len(order))
        self.tables = np.full((len(counts), max(counts)), -1, np.int32)
        for i, count in enumerate(counts):
            self.tables[i, :count] = order[sum(counts[:i]) :][:count]
        self.caches = [self._cache(side) for side in ("k", "v")]
        if self.keep is not None:
            self._let_go(self.keep)

    def _cache(self, side: str) -> npt.NDArray[np.uint8]:
        shape = self.shape
        name = shape.k_type if side == "k" else shape.v_type
        n_blocks = int(self.tables.max()) + 1
        n_bytes = head_bytes(name, shape.head_dim, shape.block_size)
        cache = np.full((n_blocks, shape.n_kv_heads, n_bytes), 0xFF, np.uint8)
        for table, sequence in zip(self.tables, self.sequences, strict=True):
            positions = np.arange(sequence.length)
            slots = table[positions // shape.block_size] * shape.block_size
            slots = slots + positions % shape.block_size
            for head in range(shape.n_kv_heads):
                rows = store(getattr(sequence, side)[:, head], name)
                pack(cache, rows, slots, name, head, shape.block_size)
        return cache

    def _let_go(self, window: int) -> None:
        """As a windowed cache does: blocks that no query sees are gone, their memory foreign."""
        size = self.shape.block_size
        for i, s in enumerate(self.sequences):
            first = s.length - len(s.q)  # the earliest query's position
            for b in range(-(-s.length // size)):
                if (b + 1) * size <= first + 1 - window and b * size >= self.shape.sinks:
                    for cache in self.caches:
                        cache[self.tables[i, b]] = 0xFF
                    self.tables[i, b] = -1

    @property
    def q(self) -> F32:
        return np.concatenate([s.q for s in self.sequences])

    @property
    def positions(self) -> npt.NDArray[np.int32]:
        return np.concatenate(
            [np.arange(s.length - len(s.q), s.length, dtype=np.int32) for s in self.sequences]
        )

    def expected(self) -> F32:
        """The oracle on the values as they are stored."""
        shape = self.shape
        outs = []
        for s in self.sequences:
            k, v = (
                np.stack([store(x[:, h], name).values for h in range(shape.n_kv_heads)], axis=1)
                for x, name in ((s.k, shape.k_type), (s.v, shape.v_type))
            )
            window = shape.window or None
            outs.append(
                reference.attention(
                    s.q, k, v, window=window, n_sinks=shape.sinks, softcap=shape.softcap
                )
            )
        return np.concatenate(outs)


@functools.cache
def library(name: str, constants: tuple[tuple[int, np.generic], ...], checked: bool) -> Library:
    """A specialised shader; kept, since loading one takes longer than running it."""
    source = shader_source(SHADERS / f"{name}.metal")
    return Library(source, dict(constants), check_accesses=checked)


def run_decode(batch: Batch, order: Order = "both", check_accesses: bool = False) -> F32:
    """Every query of the batch as a decode step's token. Returns like batch.q."""
    shape, q, positions = batch.shape, batch.q, batch.positions
    rows = np.concatenate([np.full(len(s.q), i) for i, s in enumerate(batch.sequences)])
    items = np.zeros((len(q), 4), np.uint32)
    items[:, 0], items[:, 1], items[:, 2] = np.arange(len(q)), 1, rows
    max_slots = max(shape.n_slots(int(p)) for p in positions)
    n_rows = len(q) * shape.n_heads * max_slots
    out = np.full_like(q, np.nan)
    partials = np.full((n_rows, shape.head_dim), np.nan, np.float32)
    sums = np.full((n_rows, 2), np.nan, np.float32)
    params = shape.params(batch.tables.shape[1], max_slots)
    decode = library("attention_decode", tuple(shape.constants.items()), check_accesses)
    run_kernel(
        decode,
        "attention_decode",
        [q, *batch.caches, batch.tables, positions, items, out, partials, sums, params],
        threadgroups=[max_slots, shape.n_kv_heads * shape.n_splits, len(items)],
        threads=[THREADS],
        threadgroup_bytes=[decode_memory(shape.constants)],
        order=order,
    )
    if max_slots > 1:
        run_kernel(
            decode,
            "attention_decode_reduce",
            [partials, sums, positions, items, out, params],
            threadgroups=[-(-shape.n_heads // SIMDGROUPS), len(items)],
            threads=[THREADS],
            order=order,
        )
    return out


def prefill_items(batch: Batch, chunks: int) -> npt.NDArray[np.uint32]:
    """AttentionItems of a step in which every sequence's queries are cut every `chunks` tokens."""
    limit = PREFILL_ROWS // batch.shape.group
    items, row = [], 0
    for i, s in enumerate(batch.sequences):
        for chunk in range(0, len(s.q), chunks):
            end = min(chunk + chunks, len(s.q))
            items += [(row + t, min(limit, end - t), i, 0) for t in range(chunk, end, limit)]
        row += len(s.q)
    return np.array(items, np.uint32)


def run_prefill(
    batch: Batch,
    matrix: str = "half",
    order: Order = "both",
    check_accesses: bool = False,
    chunks: int = 10**6,
) -> F32:
    """Every query of the batch as a prompt's token. Returns like batch.q."""
    shape, q = batch.shape, batch.q
    out = np.full_like(q, np.nan)
    items = prefill_items(batch, chunks)
    params = shape.params(batch.tables.shape[1], 0)
    run_kernel(
        library("attention_prefill", tuple(shape.constants.items()), check_accesses),
        f"attention_prefill_{matrix}_{shape.head_dim}",
        [q, *batch.caches, batch.tables, batch.positions, items, out, params],
        threadgroups=[len(items), shape.n_kv_heads * shape.n_splits],
        threads=[THREADS],
        order=order,
    )
    return out
