"""Random weights in every format, with their values as the gguf package expands them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from gguf.quants import dequantize, quantize

from data.random_k_quants import K_QUANT_TYPES, random_k_quant
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Type

TYPES = (
    Type.F32, Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1,
    Type.Q2_K, Type.Q3_K, Type.Q4_K, Type.Q5_K, Type.Q6_K,
)  # fmt: skip


@dataclass(frozen=True)
class Weights:
    """A matrix in a file's own blocks."""

    blocks: npt.NDArray[np.uint8]  # [n_rows, bytes of a row]
    values: npt.NDArray[np.float32]  # [n_rows, n_cols]


def block_elements(dtype: Type) -> int:
    return int(GGML_QUANT_SIZES[dtype][0])


def random_weights(dtype: Type, n_rows: int, n_cols: int, seed: int = 0) -> Weights:
    """Standard normal values, or noise in every field of a K-quant block."""
    random = np.random.RandomState(seed)
    if dtype in K_QUANT_TYPES:
        blocks = random_k_quant(dtype, (n_rows, n_cols), 1.0, random)
    else:
        values = random.standard_normal((n_rows, n_cols)).astype(np.float32)
        blocks = quantize(values, dtype).view(np.uint8).reshape(n_rows, -1)
    values = dequantize(blocks, dtype).astype(np.float32).reshape(n_rows, n_cols)
    return Weights(np.ascontiguousarray(blocks), values)
