"""Random K-quant tensors: noise written straight into the blocks, so that every field is used.

Quantising noise would leave the upper bits of many scales at zero. Here every quant, sub-block
scale and minimum is uniform over its whole range, which is the harder test of a
dequantiser and of a mat-vec. Field order and sizes are those of the GGUF K-quant blocks of 256.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gguf import GGMLQuantizationType as Type

BLOCK_LENGTH = 256


@dataclass(frozen=True)
class KQuantLayout:
    """Fields in file order: a byte count of noise, or "d" / "dmin" for a float16 scale."""

    fields: tuple[int | str, ...]
    # dmin / d that makes the mean of the values zero; None = the format has no minimum
    min_ratio: float | None
    # standard deviation of the values for d = 1 (and dmin = min_ratio)
    unit_std: float


LAYOUTS = {
    Type.Q2_K: KQuantLayout((16 + 64, "d", "dmin"), 1.5, 13.87),
    Type.Q3_K: KQuantLayout((32 + 64 + 12, "d"), None, 43.6),
    Type.Q4_K: KQuantLayout(("d", "dmin", 12 + 128), 7.5, 258.3),
    Type.Q5_K: KQuantLayout(("d", "dmin", 12 + 32 + 128), 15.5, 525.2),
    Type.Q6_K: KQuantLayout((128 + 64 + 16, "d"), None, 1366.0),
}
K_QUANT_TYPES = frozenset(LAYOUTS)


def random_k_quant(
    dtype: Type, shape: tuple[int, int], std: float, random: np.random.RandomState
) -> np.ndarray:
    """Raw blocks of a [n_rows, n_columns] matrix: uint8 [n_rows, bytes per row]."""
    layout = LAYOUTS[dtype]
    n_blocks = shape[0] * shape[1] // BLOCK_LENGTH
    # spread over a factor of three, so that a swapped block scale shows
    d = (std / layout.unit_std * (0.5 + random.random_sample(n_blocks))).astype(np.float16)
    parts = []
    for part in layout.fields:
        if isinstance(part, int):
            noise = random.randint(0, 256, size=(n_blocks, part)).astype(np.uint8)
            parts.append(noise)
        else:
            scale = d if part == "d" else (d * np.float16(layout.min_ratio)).astype(np.float16)
            parts.append(scale.astype("<f2")[:, None].view(np.uint8))
    return np.concatenate(parts, axis=1).reshape(shape[0], -1)
