"""Kernels of other projects, through the same compiler and on the same data.

Their sources are not part of this repository. A folder holds checkouts or parts of them:
``llama.cpp`` (ggml/src), ``mlx`` (mlx/backend/metal/kernels) and ``vllm-metal`` (vllm_metal/metal);
launches follow their hosts' code. What is missing is left out.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import reference
from gguf import GGMLQuantizationType as Type
from metal_rig.gpu import runner
from metal_rig.gpu.cases import (
    HEAD_DIM,
    N_HEADS,
    N_KV_HEADS,
    NAN,
    POOL_TOKENS,
    ROTATED_BYTES,
    Case,
    Result,
    relative_error,
)
from metal_rig.gpu.driver import Buffer, median_seconds
from metal_rig.msl.recording import Unit
from metal_rig.weights import random_weights

# Headers of MLX that Metal's own compiler needs and a C++ one cannot read.
STAND_INS = {
    "bf16_math.h": "",
    "logging.h": "",
    # Metal's address spaces make four specialisations of one.
    "type_traits.h": "namespace metal { template <class T> struct pointer_element;"
    " template <class T> struct pointer_element<T*> { using type = remove_cv_t<T>; };"
    " template <class T> using pointer_element_t = typename pointer_element<remove_cv_t<T>>::type;"
    " template <class T> using remove_addrspace_t = T;"
    " template <class T> struct is_empty { static constexpr bool value = __is_empty(T); };"
    " template <class T> struct is_static : is_empty<remove_cv_t<T>> {}; }",
    "complex.h": "template <class T> struct complex_t { T real, imag;"
    " constexpr complex_t(T r = 0, T i = 0) : real(r), imag(i) {} };"
    " typedef complex_t<float> complex64_t;",
}


def flattened(file: Path, folders: tuple[Path, ...], seen: set[Path] | None = None) -> str:
    """A source with its quoted includes put in place, each once."""
    seen = set() if seen is None else seen
    lines = []
    for line in file.read_text().splitlines():
        include = re.fullmatch(r'\s*#\s*include "(.+)"\s*', line)
        if include is None:
            lines.append("" if line.strip() == "#pragma once" else line)
            continue
        name = Path(include[1]).name
        if name in STAND_INS:
            lines.append(STAND_INS[name])
            continue
        places = [folder / include[1] for folder in (file.parent, *folders)]
        found = next((place.resolve() for place in places if place.exists()), None)
        if found is not None and found not in seen:
            seen.add(found)
            lines.append(flattened(found, folders, seen))
    return "\n".join(lines) + "\n"


def int_bytes(*values: int) -> list[Buffer]:
    return [Buffer.of(struct.pack("i", value)) for value in values]


# Rows of a simdgroup, simdgroups, bytes of threadgroup memory, rows that simdgroups share.
LLAMA_SHAPES = {
    "F16": ("kernel_mul_mv_f16_f32_4", 2, 4, 256, True),
    "Q8_0": ("kernel_mul_mv_q8_0_f32", 2, 4, 256, True),
    "Q4_0": ("kernel_mul_mv_q4_0_f32", 4, 2, 0, False),
    "Q4_K": ("kernel_mul_mv_q4_K_f32", 2, 2, 0, False),
    "Q6_K": ("kernel_mul_mv_q6_K_f32", 2, 2, 0, False),
}


@dataclass(frozen=True)
class LlamaLinear:
    """llama.cpp's mat-vec."""

    folder: Path
    dtype: str
    n_rows: int = 65536
    n_cols: int = 4096

    def units(self) -> list[Unit]:
        ggml = self.folder / "ggml" / "src"
        folders = (ggml / "ggml-metal", ggml)
        text = flattened(ggml / "ggml-metal" / "kernels" / "mul_mv.metal", folders)
        kernel, _, n_simdgroups, _, _ = LLAMA_SHAPES[self.dtype]
        short = {600: n_simdgroups, 602: 1, 603: 1, 604: 1}
        constants: dict[int, np.generic] = {i: np.int16(v) for i, v in short.items()}
        macros = {"GGML_METAL_HAS_BF16": "1", "GGML_COMMON_DECL_METAL": "1"}
        macros["GGML_COMMON_IMPL_METAL"] = "1"
        return [Unit(text, kernel, constants | {605: np.bool_(False)}, macros)]

    def measure(self) -> Result:
        kernel = runner.load(self.units()[0])
        _, n_own, n_simdgroups, memory, shared = LLAMA_SHAPES[self.dtype]
        weights = random_weights(Type[self.dtype], 128, self.n_cols)
        row_bytes = weights.blocks.nbytes // 128
        n_bytes = row_bytes * self.n_rows
        sets = [
            Buffer.tiled(weights.blocks, n_bytes)
            for _ in range(max(2, -(-ROTATED_BYTES // n_bytes)))
        ]
        x = np.random.default_rng(3).standard_normal((1, self.n_cols)).astype(np.float32)
        out_like = np.empty((1, self.n_rows), np.float32)
        out, x_buffer = Buffer(out_like.nbytes), Buffer.of(x)
        out.fill(NAN)
        element = max(1, row_bytes // self.n_cols)
        strides = (element, row_bytes, n_bytes, n_bytes, 4, x.nbytes, x.nbytes, x.nbytes)
        shape = (self.n_cols, self.n_rows, 1, *strides[:4], self.n_cols, 1, 1, *strides[4:])
        packed = struct.pack("3i4x4Q3i4x4Q3i2h", *shape, self.n_rows, 1, n_own, 1, 1)
        args = Buffer.of(packed)
        rows = n_own if shared else n_own * n_simdgroups
        grid, threads = (-(-self.n_rows // rows), 1, 1), (32, n_simdgroups, 1)
        lengths = [memory or 16] * sum(1 for c in kernel.compiled.signature if c // 256 == 1)
        launches = [kernel.launcher([args, w, x_buffer, out], grid, threads, lengths) for w in sets]
        seconds = median_seconds(launches, 9)
        expected = np.tile(x.astype(np.float64) @ weights.values.T, self.n_rows // 128)
        error = relative_error(out.download(out_like), expected)
        moved = n_bytes + x.nbytes + out_like.nbytes
        operations = 2 * self.n_rows * self.n_cols
        details = {"label": "llama.cpp"}
        return Result("linear", self.dtype, moved, operations, seconds, error, details)


class HalfRows:
    """K or V of [n, n_kv_heads, head_dim] halves, a tile of random rows again and again."""

    def __init__(self, seed: int, n_tokens: int) -> None:
        rng = np.random.default_rng(seed)
        self.tile = rng.standard_normal((512, N_KV_HEADS, HEAD_DIM)).astype(np.float16)
        self.buffer = Buffer.tiled(self.tile, self.tile.nbytes // 512 * n_tokens)

    def rows(self, slots: np.ndarray) -> np.ndarray:
        return self.tile[slots % 512].astype(np.float32)


def _decode_result(
    label: str, batch: int, depth: int, seconds: float, error: float, detail: str
) -> Result:
    n_bytes = batch * (depth * N_KV_HEADS * HEAD_DIM * 4 + 2 * N_HEADS * HEAD_DIM * 2)
    operations = 4 * batch * depth * N_HEADS * HEAD_DIM
    details = {"label": f"{label} {detail}", "tokens_per_second": batch / seconds}
    return Result("decode", f"{batch} x {depth}", n_bytes, operations, seconds, error, details)


def vllm_source(folder: Path, *more: str) -> str:
    """The sources of vllm-metal's paged attention in the order of its build, and `more`."""
    kernels = folder / "vllm_metal" / "metal" / "kernels_v2"
    names = ("utils", "float8", "turboquant", "pagedattention", *more)
    parts = [(kernels / f"{name}.metal").read_text() for name in names]
    text = re.sub(r'(?m)^#include ".*"$', "", "\n".join(parts))
    return "#define assert(condition)\n" + text


@dataclass(frozen=True)
class VllmDecode:
    """vllm-metal's paged attention: a single pass, or split in partitions of 512."""

    folder: Path
    batch: int
    depth: int
    split: bool
    block_size: int = 16

    def units(self) -> list[Unit]:
        text = vllm_source(self.folder)
        flags = {10: self.split, 20: False, 30: False, 40: False, 50: False}
        constants: dict[int, np.generic] = {i: np.bool_(v) for i, v in flags.items()}
        constants |= {i: np.int32(v) for i, v in ((60, 0), (70, 0), (110, 0))}
        size = 512 if self.split else 0
        attend = f"paged_attention_half_cache_half_half_hs128_bs{self.block_size}_nt256_nsl32"
        units = [Unit(text, f"{attend}_ps{size}", constants, {"VLLM_METAL_PARTITION_SIZE": "512"})]
        if self.split:
            reduce = "paged_attention_v2_reduce_half_hs128_nt256_nsl32_ps512"
            units.append(Unit(text, reduce, constants, units[0].macros))
        return units

    def measure(self) -> Result:
        kernels = [runner.load(unit) for unit in self.units()]
        k, v = HalfRows(5, POOL_TOKENS), HalfRows(6, POOL_TOKENS)
        rng = np.random.default_rng(7)
        n_columns = self.depth // self.block_size
        n_sets = max(1, min(24, POOL_TOKENS // (self.batch * self.depth)))
        order = rng.permutation(POOL_TOKENS // self.block_size).astype(np.uint32)
        tables = order[: n_sets * self.batch * n_columns].reshape(-1, n_columns)
        q = rng.standard_normal((self.batch, N_HEADS, HEAD_DIM)).astype(np.float16)
        slots = -(-self.depth // 512) if self.split else 1
        out, queries, table = Buffer(q.nbytes), Buffer.of(q), Buffer.of(tables)
        out.fill(NAN)
        partial = Buffer(q.nbytes * slots)
        sums, largest = (Buffer(self.batch * N_HEADS * slots * 4) for _ in range(2))
        lengths = Buffer.of(np.full(self.batch, self.depth, np.uint32))
        starts = Buffer.of(np.arange(self.batch + 1, dtype=np.int32))
        kv_heads, columns, stride = int_bytes(N_KV_HEADS, n_columns, N_HEADS * HEAD_DIM)
        block_stride, head_stride = int_bytes(self.block_size * N_KV_HEADS * HEAD_DIM, HEAD_DIM)
        n_seqs, no_window, n_slots = int_bytes(self.batch, -1, slots)
        scale = Buffer.of(struct.pack("f", 1 / math.sqrt(HEAD_DIM)))
        cap = Buffer.of(struct.pack("f", 0.0))
        memory = [(2 * 8 + 8 * HEAD_DIM) * 4]
        launches = []
        for i in range(n_sets):
            here = table.address + i * self.batch * n_columns * 4
            arguments = [sums, largest, partial if self.split else out, queries, k.buffer, v.buffer]
            arguments += [None, None, kv_heads, scale, cap, here, lengths, columns, None, stride]
            arguments += [block_stride, head_stride, None, starts, n_seqs, no_window]
            grid = (N_HEADS, self.batch, slots)
            launches.append(kernels[0].launcher(arguments, grid, (256, 1, 1), memory))
            if self.split:
                arguments = [out, sums, largest, partial, lengths, n_slots, None, starts, n_seqs]
                length = [-(-2 * slots * 4 // 16) * 16]
                grid = (N_HEADS, self.batch, 1)
                launches.append(kernels[1].launcher(arguments, grid, (256, 1, 1), length))
        seconds = median_seconds(launches, 5) * len(kernels)
        positions = np.arange(self.depth)
        blocks = tables[-1][positions // self.block_size].astype(np.int64)
        rows = blocks * self.block_size + positions % self.block_size
        want = reference.attention(q[-1:].astype(np.float32), k.rows(rows), v.rows(rows))[0]
        error = relative_error(out.download(q)[-1], want)
        detail = "split" if self.split else "single pass"
        return _decode_result("vllm-metal", self.batch, self.depth, seconds, error, detail)


@dataclass(frozen=True)
class MlxDecode:
    """MLX's sdpa_vector in two passes; K and V are contiguous, [batch, heads, tokens, dim]."""

    folder: Path
    batch: int
    depth: int
    blocks: int

    def units(self) -> list[Unit]:
        kernels = self.folder / "mlx" / "backend" / "metal" / "kernels"
        file = kernels / "scaled_dot_product_attention.metal"
        text = flattened(file, (self.folder,))
        constants: dict[int, np.generic] = {i: np.bool_(False) for i in range(20, 26)}
        constants[26] = np.int32(self.blocks)
        names = ("sdpa_vector_2pass_1_float16_t_128_128", "sdpa_vector_2pass_2_float16_t_128")
        return [Unit(text, name, constants, {}) for name in names]

    def measure(self) -> Result:
        first, second = (runner.load(unit) for unit in self.units())
        k, v = HalfRows(5, POOL_TOKENS), HalfRows(6, POOL_TOKENS)
        n_sets = max(1, min(24, POOL_TOKENS // (self.batch * self.depth)))
        q = np.random.default_rng(7).standard_normal((self.batch, N_HEADS, HEAD_DIM))
        q = q.astype(np.float16)
        out, queries = Buffer(q.nbytes), Buffer.of(q)
        out.fill(NAN)
        partial = Buffer(q.nbytes * self.blocks)
        sums, largest = (Buffer(self.batch * N_HEADS * self.blocks * 4) for _ in range(2))
        n, blocks = int_bytes(self.depth, self.blocks)
        head_stride = Buffer.of(struct.pack("Q", self.depth * HEAD_DIM))
        row_stride = Buffer.of(struct.pack("Q", HEAD_DIM))
        scale = Buffer.of(struct.pack("f", 1 / math.sqrt(HEAD_DIM)))
        launches = []
        step = self.batch * self.depth * N_KV_HEADS * HEAD_DIM * 2
        for i in range(n_sets):
            here = (k.buffer.address + i * step, v.buffer.address + i * step)
            arguments = [queries, *here, partial, sums, largest, None, n]
            arguments += [head_stride, row_stride, head_stride, row_stride, scale]
            grid, threads = (N_KV_HEADS, self.batch, self.blocks), (32, N_HEADS // N_KV_HEADS, 1)
            launches.append(first.launcher(arguments, grid, threads))
            arguments = [partial, sums, largest, out, blocks]
            grid = (self.batch * N_HEADS, 1, 1)
            launches.append(second.launcher(arguments, grid, (1024, 1, 1)))
        seconds = median_seconds(launches, 5) * 2
        # The buffers as [batch, heads, tokens, dim]: rows of the tile in order.
        start = (n_sets - 1) * self.batch * self.depth * N_KV_HEADS
        start += (self.batch - 1) * N_KV_HEADS * self.depth
        rows = (start + np.arange(N_KV_HEADS * self.depth)) % (512 * N_KV_HEADS)
        keys, values = (
            x.tile.reshape(-1, HEAD_DIM)[rows].reshape(N_KV_HEADS, self.depth, HEAD_DIM)
            for x in (k, v)
        )
        keys, values = (x.transpose(1, 0, 2).astype(np.float32) for x in (keys, values))
        want = reference.attention(q[-1:].astype(np.float32), keys, values)[0]
        error = relative_error(out.download(q)[-1], want)
        return _decode_result("mlx", self.batch, self.depth, seconds, error, f"{self.blocks}")


def peer_cases(folder: Path, batches: tuple[tuple[int, int], ...]) -> Iterator[Case]:
    """What the folder has."""
    if (folder / "llama.cpp").is_dir():
        for dtype in LLAMA_SHAPES:
            yield LlamaLinear(folder / "llama.cpp", dtype)
    for batch, depth in batches:
        if (folder / "vllm-metal").is_dir():
            yield VllmDecode(folder / "vllm-metal", batch, depth, split=False)
            yield VllmDecode(folder / "vllm-metal", batch, depth, split=True)
        if (folder / "mlx").is_dir():
            for blocks in (64, 256):
                yield MlxDecode(folder / "mlx", batch, depth, blocks)
