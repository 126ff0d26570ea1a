"""Other projects' attention over whole prompts: see peers.py for where their sources are.

Both keep parts of matrices in registers of their own and rely on Apple's layout of them. Three
expressions that name a lane's place are exchanged, so that NVIDIA's layout costs them nothing.
Matrices of float are exact here, and slow; with `halves` every product is one of halves, as cheap
as ours (and as inexact), which says what is left of a difference when matrices cost the same.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import reference
from metal_rig.gpu import runner
from metal_rig.gpu.cases import HEAD_DIM, N_HEADS, N_KV_HEADS, NAN, Result, relative_error
from metal_rig.gpu.driver import Buffer, median_seconds
from metal_rig.gpu.peers import HalfRows, flattened, int_bytes, vllm_source
from metal_rig.msl.recording import Unit

# A lane's row and column of an 8 x 8 matrix, and the second step across a row's four lanes.
LAYOUT = (
    (r"\bfm\s*=\s*\(qid & 4\) \+ [^;]*;", "fm = qid;"),
    (r"\bfn\s*=\s*\(qid & 2\) \* 2 \+ [^;]*;", "fn = short(__msl_lane_index() % 4 * 2);"),
    (r"simd_shuffle_xor\((\w+), ushort\(8\)\)", r"simd_shuffle_xor(\1, ushort(2))"),
)
QUERIES = 32  # of a threadgroup, of both


def nvidia_layout(text: str) -> str:
    """The source with NVIDIA's layout of matrices. Raises ValueError where it names none."""
    for pattern, replacement in LAYOUT:
        text, n = re.subn(pattern, replacement, text)
        if n != 1:
            raise ValueError(f"[gpu] {n} places match {pattern}: look at how the peer lays out")
    return text


def _macros(halves: bool) -> dict[str, str]:
    return {"MSL_PRODUCTS_OF_HALVES": "1"} if halves else {}


def _prompt(depth: int) -> np.ndarray:
    """Queries of a sequence, [depth, heads, dim]."""
    return np.random.default_rng(4).standard_normal((depth, N_HEADS, HEAD_DIM)).astype(np.float16)


def _result(case: MlxPrefill | VllmPrefill, label: str, seconds: float, error: float) -> Result:
    n_tokens = case.batch * case.depth
    operations = 2 * n_tokens * (case.depth + 1) * N_HEADS * HEAD_DIM
    n_bytes = n_tokens * (2 * N_HEADS + 2 * N_KV_HEADS) * HEAD_DIM * 2
    details = {"label": label + (" products of halves" if case.halves else "")}
    name = f"{case.batch} x {case.depth}"
    return Result("prefill", name, n_bytes, operations, seconds, error, details)


@dataclass(frozen=True)
class VllmPrefill:
    """vllm-metal's tiled attention over its paged cache, causal."""

    folder: Path
    batch: int = 8
    depth: int = 4096
    halves: bool = False
    block_size: int = 16

    def units(self) -> list[Unit]:
        text = nvidia_layout(vllm_source(self.folder, "pagedattention_tiled"))
        name = f"paged_attention_tiled_half_hs{HEAD_DIM}_bs{self.block_size}_bq32_tk32_nt128"
        constants: dict[int, np.generic] = {i: np.bool_(False) for i in (10, 20, 30, 40, 50)}
        constants |= {i: np.int32(0) for i in (60, 70, 110)}
        macros = {"VLLM_METAL_PARTITION_SIZE": "512"} | _macros(self.halves)
        return [Unit(text, name, constants, macros)]

    def measure(self) -> Result:
        kernel = runner.load(self.units()[0])
        n_tokens, n_columns = self.batch * self.depth, self.depth // self.block_size
        k, v = HalfRows(5, n_tokens), HalfRows(6, n_tokens)
        order = np.random.default_rng(7).permutation(n_tokens // self.block_size)
        tables = order.astype(np.uint32).reshape(self.batch, n_columns)
        q = _prompt(self.depth)
        queries, out = Buffer.tiled(q, q.nbytes * self.batch), Buffer(q.nbytes * self.batch)
        out.fill(NAN)
        n_seqs, kv_heads, columns = int_bytes(self.batch, N_KV_HEADS, n_columns)
        row, head, no_window = int_bytes(N_HEADS * HEAD_DIM, HEAD_DIM, -1)
        [block] = int_bytes(self.block_size * N_KV_HEADS * HEAD_DIM)
        scale, cap = (Buffer.of(struct.pack("f", x)) for x in (1 / math.sqrt(HEAD_DIM), 0.0))
        lengths = Buffer.of(np.full(self.batch, self.depth, np.uint32))
        starts = Buffer.of(np.arange(self.batch + 1, dtype=np.int32) * self.depth)
        arguments = [None, None, out, queries, k.buffer, v.buffer, None, None, kv_heads, scale, cap]
        arguments += [Buffer.of(tables), lengths, columns, None, row, block, head, None, starts]
        grid = (N_HEADS, n_tokens // QUERIES + self.batch, 1)
        memory = [(QUERIES + 2 * 32) * (HEAD_DIM + 8) * 2]
        launch = kernel.launcher([*arguments, n_seqs, no_window], grid, (128, 1, 1), memory)
        seconds = median_seconds([launch], 5)
        positions = np.arange(self.depth)
        slots = tables[0][positions // self.block_size].astype(np.int64) * self.block_size
        slots += positions % self.block_size
        want = reference.attention(q[-8:].astype(np.float32), k.rows(slots), v.rows(slots))
        return _result(self, "vllm-metal", seconds, relative_error(out.download(q)[-8:], want))


@dataclass(frozen=True)
class MlxPrefill:
    """MLX's steel attention, causal; everything is contiguous, [batch, heads, tokens, dim]."""

    folder: Path
    batch: int = 8
    depth: int = 4096
    halves: bool = False

    def units(self) -> list[Unit]:
        kernels = self.folder / "mlx" / "backend" / "metal" / "kernels"
        file = kernels / "steel" / "attn" / "kernels" / "steel_attention.metal"
        name = f"steel_attention_float16_bq32_bk16_bd{HEAD_DIM}_wm4_wn1_maskfloat16"
        flags = {200: True, 201: True, 300: False, 301: True, 302: False}
        constants: dict[int, np.generic] = {i: np.bool_(v) for i, v in flags.items()}
        text = nvidia_layout(flattened(file, (self.folder,)))
        return [Unit(text, name, constants, _macros(self.halves))]

    def _parameters(self) -> bytes:
        n_queries, n_keys = self.depth // QUERIES, self.depth // 16
        sizes = (self.batch, N_HEADS, HEAD_DIM, self.depth, self.depth, N_HEADS // N_KV_HEADS)
        blocks = (n_queries, n_keys, n_queries, n_keys, 0, 0, 0)
        head = self.depth * HEAD_DIM
        q_strides, k_strides = ((n * head, head, HEAD_DIM) for n in (N_HEADS, N_KV_HEADS))
        strides = (*q_strides, *k_strides, *k_strides, *q_strides)
        return struct.pack("6if7i12q", *sizes, 1 / math.sqrt(HEAD_DIM), *blocks, *strides)

    def measure(self) -> Result:
        kernel = runner.load(self.units()[0])
        k, v = (HalfRows(seed, self.batch * self.depth) for seed in (5, 6))
        q = _prompt(self.depth)
        rows = np.ascontiguousarray(q.transpose(1, 0, 2))
        queries, out = Buffer.tiled(rows, q.nbytes * self.batch), Buffer(q.nbytes * self.batch)
        out.fill(NAN)
        arguments = [queries, k.buffer, v.buffer, out, Buffer.of(self._parameters())]
        grid = (self.depth // QUERIES, N_HEADS, self.batch)
        seconds = median_seconds([kernel.launcher(arguments, grid, (32, 4, 1))], 5)
        # The first sequence's heads are the rows of the tile, again and again.
        places = np.arange(N_KV_HEADS * self.depth) % (512 * N_KV_HEADS)
        keys, values = (
            x.tile.reshape(-1, HEAD_DIM)[places]
            .reshape(N_KV_HEADS, self.depth, HEAD_DIM)
            .transpose(1, 0, 2)
            .astype(np.float32)
            for x in (k, v)
        )
        want = reference.attention(q[-8:].astype(np.float32), keys, values)
        got = out.download(rows).transpose(1, 0, 2)[-8:]
        return _result(self, "mlx", seconds, relative_error(got, want))
