"""Writes files as llama-perplexity --kl-divergence-base does, from what is known of the format."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np


def write(
    path: Path, n_ctx: int, vocab_size: int, tokens: np.ndarray, logits: list[np.ndarray]
) -> None:
    """tokens: [n_chunks, n_ctx]; logits: of the scored positions of each chunk."""
    data = b"_logits_" + struct.pack("<3i", n_ctx, vocab_size, len(tokens))
    data += tokens.astype("<i4").tobytes()
    for chunk in logits:
        for row in chunk:
            data += encode_row(row.astype(np.float32))
    path.write_bytes(data)


def encode_row(logits: np.ndarray) -> bytes:
    highest = logits.max()
    lowest = max(logits.min(), highest - np.float32(16))
    total = np.float32(np.log(np.exp(logits - highest).sum(dtype=np.float64)))
    scale = (highest - lowest) / np.float32(65535)
    codes = np.zeros(len(logits) + len(logits) % 2, "<u2")
    if scale:
        codes[: len(logits)] = np.rint(np.maximum(logits - lowest, 0) / scale)
    return struct.pack("<2f", scale, lowest - highest - total) + codes.tobytes()
