"""What is measured: kernels with the sizes of real models, each with a check of its result.

A case names the kernels it needs, so that they can be compiled on another machine, and measures
itself where a GPU is. Buffers are rotated, or larger than caches, so that memory is what is read.
"""

from __future__ import annotations

import gc
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

import reference
from gguf import GGMLQuantizationType as Type
from metal_rig.gpu import runner
from metal_rig.gpu.catalogue import attention_constants, decode_memory
from metal_rig.gpu.driver import Buffer, median_seconds, synchronize
from metal_rig.kv_pack import head_bytes, pack, store
from metal_rig.msl.recording import Unit
from metal_rig.shaders import SHADERS, shader_source
from metal_rig.weights import random_weights

F32 = npt.NDArray[np.float32]
N_HEADS, N_KV_HEADS, HEAD_DIM = 32, 8, 128
GROUP = N_HEADS // N_KV_HEADS
THREADS = (128, 1, 1)
POOL_TOKENS = 64 * 32768  # of the cache
ROTATED_BYTES = 1 << 30  # of weights, far beyond a GPU's caches
NAN = 0x7FC00000


@dataclass(frozen=True)
class Result:
    """One measurement. n_bytes: what must move at least. error: relative to float64."""

    group: str
    name: str
    n_bytes: int
    n_operations: int
    seconds: float
    error: float
    details: Mapping[str, Any] = field(default_factory=dict)


class Case(Protocol):
    """Something to measure."""

    def units(self) -> list[Unit]: ...
    def measure(self) -> Result: ...


def relative_error(actual: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """Norm of the difference over the norm; NaN where a result is missing."""
    difference = actual.astype(np.float64) - expected
    return float(np.linalg.norm(difference) / np.linalg.norm(expected))


@dataclass(frozen=True)
class Ceiling:
    """Copying (read + write), or reading alone."""

    kernel: str

    def units(self) -> list[Unit]:
        text = (Path(__file__).parent / "ceiling.metal").read_text()
        return [Unit(text, self.kernel, {}, {})]

    def measure(self) -> Result:
        n_bytes = 1 << 32
        data = np.random.default_rng(0).integers(0, 2**32, 1 << 22, np.uint32)
        source = Buffer.tiled(data, n_bytes)
        target = Buffer(n_bytes if self.kernel == "copy" else 1 << 24)
        words = 4 if self.kernel == "copy" else 8
        groups = (n_bytes // 16 // words // 256, 1, 1)
        launch = runner.load(self.units()[0]).launcher([source, target], groups, (256, 1, 1))
        seconds = median_seconds([launch])
        moved = 2 * n_bytes if self.kernel == "copy" else n_bytes
        wrong = 0.0
        if self.kernel == "copy":
            wrong = float(np.mean(target.download(data) != data + np.uint32(1)))
        return Result("ceiling", self.kernel, moved, 0, seconds, wrong)


class KVPool:
    """Blocks of one layer's K and V: random rows, repeated after n_tile blocks."""

    def __init__(self, k_type: str, v_type: str, block_size: int, n_tokens: int) -> None:
        self.block_size = block_size
        self.n_blocks = n_tokens // block_size
        n_tile = max(1, 512 // block_size)
        rng = np.random.default_rng(1)
        self.values: list[F32] = []  # [n_tile * block_size, n_kv_heads, head_dim]
        self.buffers: list[Buffer] = []
        for name in (k_type, v_type):
            shape = (n_tile * block_size, N_KV_HEADS, HEAD_DIM)
            rows = rng.standard_normal(shape).astype(np.float32)
            tile = np.zeros((n_tile, N_KV_HEADS, head_bytes(name, HEAD_DIM, block_size)), np.uint8)
            for head in range(N_KV_HEADS):
                stored = store(rows[:, head], name)
                pack(tile, stored, np.arange(len(rows)), name, head, block_size)
                rows[:, head] = stored.values
            self.values.append(rows)
            self.buffers.append(Buffer.tiled(tile, tile[0].nbytes * self.n_blocks))

    def rows(self, side: int, table: npt.NDArray[np.int32], n: int) -> F32:
        """The first n tokens of a sequence: [n, n_kv_heads, head_dim]."""
        positions = np.arange(n)
        slots = table[positions // self.block_size] * self.block_size
        slots = slots + positions % self.block_size
        return self.values[side][slots % len(self.values[side])]


_POOL: dict[tuple[Any, ...], KVPool] = {}


def pool(*arguments: Any) -> KVPool:
    """One pool at a time: it fills much of a GPU."""
    if arguments not in _POOL:
        _POOL.clear()
        gc.collect()
        _POOL[arguments] = KVPool(*arguments)
    return _POOL[arguments]


@dataclass(frozen=True)
class Decode:
    """attention_decode and its reduction: every sequence has `depth` tokens."""

    batch: int
    depth: int
    k_type: str = "f16"
    v_type: str = "f16"
    block_size: int = 16
    partition: int = 512
    round: int = 512
    paged: bool = True
    window: int = 0
    shaders: Path = SHADERS
    label: str = ""

    def units(self) -> list[Unit]:
        text = shader_source(self.shaders / "attention_decode.metal")
        names = ("attention_decode", "attention_decode_reduce")
        return [Unit(text, name, self.constants(), {}) for name in names]

    def constants(self) -> dict[int, np.generic]:
        types = (self.block_size, self.k_type, self.v_type, GROUP, self.partition, self.round)
        return attention_constants(HEAD_DIM, *types)

    @property
    def name(self) -> str:
        return f"{self.batch} x {self.depth}"

    def n_slots(self) -> int:
        first = max(0, self.depth - self.window) if self.window else 0
        return (self.depth - 1) // self.partition + 1 - first // self.partition

    def measure(self) -> Result:
        decode, reduce = (runner.load(unit) for unit in self.units())
        cache = pool(self.k_type, self.v_type, self.block_size, POOL_TOKENS)
        rng = np.random.default_rng(2)
        n_columns = self.depth // self.block_size
        n_sets = max(1, min(24, POOL_TOKENS // (self.batch * self.depth)))
        order = rng.permutation(cache.n_blocks) if self.paged else np.arange(cache.n_blocks)
        n_rows = n_sets * self.batch
        tables = order.astype(np.int32)[: n_rows * n_columns].reshape(n_rows, n_columns)
        q = rng.standard_normal((self.batch, N_HEADS, HEAD_DIM)).astype(np.float32)
        items = np.zeros((self.batch, 4), np.uint32)
        items[:, 0] = items[:, 2] = np.arange(self.batch)
        items[:, 1] = 1
        n_slots = self.n_slots()
        shape = (N_HEADS, N_KV_HEADS, n_columns, n_slots, self.window, 0)
        params = Buffer.of(struct.pack("6I2f", *shape, 1 / math.sqrt(HEAD_DIM), 0.0))
        positions = Buffer.of(np.full(self.batch, self.depth - 1, np.int32))
        out, work = Buffer(q.nbytes), Buffer.of(items)
        partials, sums = Buffer(q.nbytes * n_slots), Buffer(q.nbytes // HEAD_DIM * 2 * n_slots)
        for buffer in (out, partials, sums):
            buffer.fill(NAN)
        queries, table_buffer = Buffer.of(q), Buffer.of(tables)
        memory = decode_memory(self.constants())
        launches = []
        for i in range(n_sets):
            table = table_buffer.address + i * self.batch * n_columns * 4
            arguments = [queries, *cache.buffers, table, positions, work, out, partials, sums]
            grid = (n_slots, N_KV_HEADS, self.batch)
            launches.append(decode.launcher([*arguments, params], grid, THREADS, [memory]))
            if n_slots > 1:
                arguments = [partials, sums, positions, work, out, params]
                grid = (N_HEADS // 4, self.batch, 1)
                launches.append(reduce.launcher(arguments, grid, THREADS))
        kernels_per_set = len(launches) // n_sets
        seconds = median_seconds(launches, 9) * kernels_per_set
        error = self._error(cache, tables[-self.batch :], q, out.download(q))
        del table_buffer
        n_tokens = min(self.depth, self.window or self.depth)
        n_bytes = self.batch * n_tokens * N_KV_HEADS * self._row_bytes() + 2 * q.nbytes
        operations = 4 * self.batch * n_tokens * N_HEADS * HEAD_DIM
        kind = "" if (self.k_type, self.v_type) == ("f16", "f16") else f" {self.k_type}"
        details = {
            "label": self.label,
            "block_size": self.block_size,
            "partition": self.partition,
            "round": self.round,
            "paged": self.paged,
            "window": self.window,
            "tokens_per_second": self.batch / seconds,
        }
        return Result("decode" + kind, self.name, n_bytes, operations, seconds, error, details)

    def _row_bytes(self) -> int:
        return sum(head_bytes(t, HEAD_DIM, 8) // 8 for t in (self.k_type, self.v_type))

    def _error(self, cache: KVPool, tables: npt.NDArray[np.int32], q: F32, got: F32) -> float:
        """Of the last sequence of the set that ran last."""
        k, v = (cache.rows(side, tables[-1], self.depth) for side in (0, 1))
        window = self.window or None
        return relative_error(got[-1], reference.attention(q[-1:], k, v, window=window)[0])


@dataclass(frozen=True)
class Linear:
    """linear_decode: n_tokens rows of x times a weight [n_rows, n_cols]."""

    dtype: str
    n_rows: int = 65536
    n_cols: int = 4096
    n_tokens: int = 1
    tokens_per_pass: int = 4
    shaders: Path = SHADERS
    label: str = ""

    def units(self) -> list[Unit]:
        text = shader_source(self.shaders / "linear_decode.metal")
        constants = {16: np.bool_(False), 17: np.bool_(False), 18: np.uint32(self.tokens_per_pass)}
        return [Unit(text, f"linear_decode_{self.dtype}", constants, {})]

    def measure(self) -> Result:
        kernel = runner.load(self.units()[0])
        weights = random_weights(Type[self.dtype], 128, self.n_cols)
        n_bytes = weights.blocks.nbytes // 128 * self.n_rows
        n_sets = max(2, -(-ROTATED_BYTES // n_bytes))
        sets = [Buffer.tiled(weights.blocks, n_bytes) for _ in range(n_sets)]
        x = np.random.default_rng(3).standard_normal((self.n_tokens, self.n_cols))
        x = x.astype(np.float32)
        out_like = np.empty((self.n_tokens, self.n_rows), np.float32)
        x_buffer, out = Buffer.of(x), Buffer(out_like.nbytes)
        out.fill(NAN)
        tokens = Buffer.of(np.arange(self.n_tokens, dtype=np.uint32))
        params = Buffer.of(struct.pack("3If", self.n_tokens, self.n_rows, self.n_cols, 0.0))
        rows = int(self.rows_per_group())
        grid = (-(-self.n_tokens // self.tokens_per_pass), -(-self.n_rows // rows), 1)
        launches = [
            kernel.launcher([x_buffer, w, out, out, out, tokens, params], grid, THREADS)
            for w in sets
        ]
        seconds = median_seconds(launches, 9)
        expected = np.tile(x.astype(np.float64) @ weights.values.T, self.n_rows // 128)
        error = relative_error(out.download(out_like), expected)
        moved = n_bytes + x.nbytes + out_like.nbytes
        operations = 2 * self.n_tokens * self.n_rows * self.n_cols
        details = {"label": self.label, "tokens_per_pass": self.tokens_per_pass}
        name = self.dtype if self.n_tokens == 1 else f"{self.dtype}, {self.n_tokens} tokens"
        return Result("linear", name, moved, operations, seconds, error, details)

    def rows_per_group(self) -> int:
        """kLinearDecodeRows of this folder's params.h."""
        text = (self.shaders / "params.h").read_text()
        return int(text.split("kLinearDecodeRows = ")[1].split(",")[0])


@dataclass(frozen=True)
class Prefill:
    """attention_prefill of the last `chunk` tokens of prompts; 0: of whole ones."""

    batch: int = 8
    depth: int = 4096
    chunk: int = 0
    matrix: str = "half"
    block_size: int = 16
    shaders: Path = SHADERS
    label: str = ""

    def units(self) -> list[Unit]:
        text = shader_source(self.shaders / "attention_prefill.metal")
        constants = dict(
            list(attention_constants(HEAD_DIM, self.block_size, "f16", "f16", GROUP).items())[:5]
        )
        return [Unit(text, f"attention_prefill_{self.matrix}_{HEAD_DIM}", constants, {})]

    def measure(self) -> Result:
        kernel = runner.load(self.units()[0])
        chunk = self.chunk or self.depth
        n_tokens, n_columns = self.batch * chunk, self.depth // self.block_size
        cache = pool("f16", "f16", self.block_size, POOL_TOKENS)
        rng = np.random.default_rng(4)
        tables = rng.permutation(cache.n_blocks)[: self.batch * n_columns].astype(np.int32)
        tables = tables.reshape(self.batch, n_columns)
        tile = rng.standard_normal((chunk, N_HEADS, HEAD_DIM)).astype(np.float32)
        q = Buffer.tiled(tile, tile.nbytes * self.batch)
        out = Buffer(q.n_bytes)
        out.fill(NAN)
        step = 32 // GROUP
        items = np.zeros((n_tokens // step, 4), np.uint32)
        items[:, 0] = np.arange(len(items)) * step
        items[:, 1] = step
        items[:, 2] = items[:, 0] // chunk
        of_chunk = np.arange(self.depth - chunk, self.depth, dtype=np.int32)
        positions = Buffer.of(np.tile(of_chunk, self.batch))
        shape = (N_HEADS, N_KV_HEADS, n_columns, 0, 0, 0)
        params = struct.pack("6I2f", *shape, 1 / math.sqrt(HEAD_DIM), 0.0)
        arguments = [
            *(q, *cache.buffers, Buffer.of(tables), positions),
            *(Buffer.of(items), out, Buffer.of(params)),
        ]
        launch = kernel.launcher(arguments, (len(items), N_KV_HEADS, 1), THREADS)
        seconds = median_seconds([launch], 5)
        synchronize()
        rows = slice(chunk - 8, chunk)
        got = out.download(tile)[rows]
        k, v = (cache.rows(side, tables[0], self.depth) for side in (0, 1))
        error = relative_error(got, reference.attention(tile[rows], k, v))
        pairs = self.batch * chunk * (2 * self.depth - chunk + 1) // 2
        operations = 4 * pairs * N_HEADS * HEAD_DIM
        details = {"label": self.label, "matrix": self.matrix}
        name = f"{self.batch} x {self.depth}" + (f", last {chunk}" if self.chunk else "")
        return Result("prefill", name, 2 * q.n_bytes, operations, seconds, error, details)
