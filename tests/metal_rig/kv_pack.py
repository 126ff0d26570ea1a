"""The cache's block layout in NumPy, written from the description in ``shaders/kv_layout.h``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf.quants import dequantize, quantize

import gguf

F32 = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]
TILE = 8  # tokens
CHUNK = 8  # elements
KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0")
_TOKENS_PER_WORD = {"f32": 1, "f16": 1, "bf16": 1, "q8_0": 2, "q4_0": 4}


def kv_type(name: str) -> np.uint32:
    """The number of enum KVType."""
    return np.uint32(KV_TYPES.index(name))


@dataclass(frozen=True)
class Stored:
    """Rows as a type stores them: chunks of bytes, scales, and what they stand for."""

    chunks: Bytes  # [n, head_dim / 8, bytes of a chunk]
    scales: npt.NDArray[np.uint16]  # [n, groups of 32]; empty without scales
    values: F32  # [n, head_dim]


def store(rows: F32, name: str) -> Stored:
    """Rounds rows [n, head_dim] to a KV type; integers and scales are ggml's."""
    n, head_dim = rows.shape
    if name in ("q8_0", "q4_0"):
        return _store_integers(rows, name)
    kind = gguf.GGMLQuantizationType[name.upper()]
    raw = np.ascontiguousarray(quantize(rows, kind)).view(np.uint8).reshape(n, head_dim // 8, -1)
    values = np.asarray(dequantize(quantize(rows, kind), kind), dtype=np.float32)
    return Stored(raw, np.zeros((n, 0), np.uint16), values.reshape(n, head_dim))


def _store_integers(rows: F32, name: str) -> Stored:
    n, head_dim = rows.shape
    n_groups = -(-head_dim // 32)
    padded = np.zeros((n, n_groups * 32), np.float32)
    padded[:, :head_dim] = rows
    kind = gguf.GGMLQuantizationType[name.upper()]
    blocks = np.asarray(quantize(padded, kind), dtype=np.uint8).reshape(n * n_groups, -1)
    values = np.asarray(dequantize(blocks, kind), dtype=np.float32).reshape(n, -1)
    scales = blocks[:, :2].copy().view(np.uint16).reshape(n, n_groups)
    data = blocks[:, 2:]
    if name == "q8_0":
        chunks = data.reshape(n, n_groups * 4, 8)
    else:  # ggml has elements i and i + 16 in a byte; here i and i + 4 of a chunk
        integers = np.concatenate([data & 15, data >> 4], axis=1).reshape(n, n_groups * 4, 2, 4)
        chunks = integers[:, :, 0] | integers[:, :, 1] << 4
    return Stored(chunks[:, : head_dim // 8], scales, values[:, :head_dim])


def head_bytes(name: str, head_dim: int, block_size: int) -> int:
    """Bytes of one KV head's K or V in a block."""
    bits = {"f32": 32, "f16": 16, "bf16": 16, "q8_0": 8, "q4_0": 4}[name]
    scales = 2 * -(-head_dim // 32) if name in ("q8_0", "q4_0") else 0
    return block_size * (head_dim * bits // 8 + scales)


def pack(cache: Bytes, stored: Stored, slots: Any, name: str, head: int, block_size: int) -> None:
    """Puts rows of one KV head at their slots. cache: [n_blocks, n_kv_heads, bytes], changed."""
    n_chunks, width = stored.chunks.shape[1:]
    per_word = _TOKENS_PER_WORD[name]
    n_data = block_size * n_chunks * width
    for row, slot in enumerate(np.asarray(slots)):
        block, token = divmod(int(slot), block_size)
        run = cache[block, head]
        words = run[:n_data].reshape(block_size // per_word, n_chunks, per_word, width)
        words[token // per_word, :, token % per_word] = stored.chunks[row]
        if stored.scales.size:
            n_groups = stored.scales.shape[1]
            scales = run[n_data:].view(np.uint16).reshape(block_size // TILE, n_groups, TILE)
            scales[token // TILE, :, token % TILE] = stored.scales[row]
