"""Block formats against the ``gguf`` package, which mirrors llama.cpp's reference bit for bit."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from gguf.quants import dequantize as package_dequantize
from gguf.quants import quantize as package_quantize
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import gguf
from longbow_quarrel import _core
from longbow_quarrel.errors import UsageError

DTYPES = [
    "F32",
    "F16",
    "BF16",
    "Q8_0",
    "Q4_0",
    "Q4_1",
    "Q5_0",
    "Q5_1",
    "Q2_K",
    "Q3_K",
    "Q4_K",
    "Q5_K",
    "Q6_K",
]
KV_DTYPES = ["F32", "F16", "BF16", "Q8_0", "Q4_0"]

# Byte offsets of the float16 scales in a block.
SCALES = {
    "F16": [0], "Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
}  # fmt: skip


def qtype(dtype: str) -> gguf.GGMLQuantizationType:
    return gguf.GGMLQuantizationType[dtype]


def same_bits(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> bool:
    """Equal bit for bit, except that any NaN equals any NaN."""
    nan = np.isnan(a) & np.isnan(b)
    return bool(np.all(nan | (a.view(np.uint32) == b.view(np.uint32))))


def random_blocks(
    dtype: str, n_blocks: int, rng: np.random.Generator, scales: npt.NDArray[np.float16]
) -> npt.NDArray[np.uint8]:
    """Blocks of random bytes whose scales are drawn from ``scales``: uint8 [n_blocks, n_bytes]."""
    _, n_bytes = gguf.GGML_QUANT_SIZES[qtype(dtype)]
    blocks = rng.integers(0, 256, (n_blocks, n_bytes), dtype=np.uint8)
    for offset in SCALES.get(dtype, []):
        drawn = rng.choice(scales, n_blocks)
        blocks[:, offset : offset + 2] = drawn.view(np.uint8).reshape(n_blocks, 2)
    return blocks


def expand(dtype: str, data: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    n_elements, n_bytes = gguf.GGML_QUANT_SIZES[qtype(dtype)]
    return _core.dequantize(dtype, data.reshape(-1), data.size // n_bytes * n_elements)


ORDINARY = np.random.default_rng(1).normal(0, 0.02, 500).astype(np.float16)
EXTREME = np.array(
    [0.0, -0.0, 65504.0, -65504.0, 6e-8, -6e-8, 6.1e-5, 1.0, np.inf, -np.inf, np.nan], np.float16
)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scales", [ORDINARY, EXTREME], ids=["ordinary", "extreme"])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_same_floats_as_the_package(dtype: str, scales: npt.NDArray[np.float16]) -> None:
    blocks = random_blocks(dtype, 400, np.random.default_rng(7), scales)
    expected = package_dequantize(blocks, qtype(dtype)).reshape(-1)
    assert same_bits(expand(dtype, blocks), expected)


@pytest.mark.parametrize("dtype", [d for d in DTYPES if not d.endswith("_K")])
def test_undoes_the_packages_quantisation(dtype: str) -> None:
    values = np.random.default_rng(3).normal(0, 1, (16, 256)).astype(np.float32)
    packed = package_quantize(values, qtype(dtype)).view(np.uint8)
    back = expand(dtype, np.ascontiguousarray(packed)).reshape(values.shape)
    assert same_bits(back, package_dequantize(packed, qtype(dtype)))
    # The coarsest step is Q4_0's: an eighth of a block's largest value, and the end of the range
    # that is opposite to it may be off by a whole step. The rest allows for the float16 scale.
    largest = np.abs(values.reshape(-1, 32)).max(axis=1, keepdims=True)
    assert np.all(np.abs(back - values).reshape(-1, 32) <= largest / 8 * 1.01)


def test_every_half_converts_as_numpy_does() -> None:
    halves = np.arange(65536, dtype=np.uint16)
    expected = halves.view(np.float16).astype(np.float32)
    assert same_bits(_core.dequantize("F16", halves.view(np.uint8), 65536), expected)


def test_every_bf16_is_the_upper_half_of_a_float() -> None:
    upper = np.arange(65536, dtype=np.uint32)
    data = upper.astype(np.uint16).view(np.uint8)
    assert same_bits(_core.dequantize("BF16", data, 65536), (upper << 16).view(np.float32))


@pytest.mark.parametrize("dtype", ["Q8_0", "Q4_0", "F16", "BF16"])
@given(
    hnp.arrays(
        np.float32,
        st.integers(1, 4).map(lambda n: 32 * n),
        elements=st.floats(-65000, 65000, width=32, allow_subnormal=False)
        | st.floats(-1, 1, width=32, allow_subnormal=False),
    )
)
@settings(max_examples=100, deadline=None)
def test_quantises_as_the_package_does(dtype: str, values: npt.NDArray[np.float32]) -> None:
    if dtype in ("Q8_0", "Q4_0"):
        # Below, the package divides by a scale whose reciprocal overflows, which is undefined.
        values = np.where(np.abs(values) < 1e-30, np.float32(0), values)
    packed = package_quantize(values.reshape(-1, 32), qtype(dtype)).view(np.uint8).reshape(-1)
    assert np.array_equal(_core.quantize(dtype, values), packed)


@pytest.mark.parametrize("dtype", KV_DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_stays_visible(dtype: str, bad: float) -> None:
    values = np.ones(64, np.float32)
    values[40] = bad
    back = _core.dequantize(dtype, _core.quantize(dtype, values), 64)
    assert not np.isfinite(back[40])
    assert np.allclose(back[:32], 1, rtol=0.01)


@pytest.mark.parametrize("dtype", ["Q8_0", "Q4_0"])
def test_tiny_values_become_zero(dtype: str) -> None:
    values = np.full(32, 1e-42, np.float32)
    assert np.array_equal(_core.dequantize(dtype, _core.quantize(dtype, values), 32), np.zeros(32))


def test_takes_bytes_and_lower_case_names() -> None:
    assert _core.dequantize("q8_0", b"\x00\x3c" + bytes(range(32)), 32).tolist() == list(range(32))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: _core.dequantize("IQ2_XXS", b"", 0), "IQ2_XXS"),
        (lambda: _core.dequantize("Q8_0", bytes(34), 31), "expected 34 bytes for each 32"),
        (lambda: _core.dequantize("Q8_0", bytes(33), 32), "expected 34 bytes for each 32"),
        (lambda: _core.dequantize("Q8_0", b"", 2**63), "expected 34 bytes for each 32"),
        (lambda: _core.quantize("Q8_0", np.zeros(33, np.float32)), "multiple of 32"),
        (lambda: _core.quantize("Q4_K", np.zeros(256, np.float32)), "Q4_K"),
    ],
)
def test_refuses_what_does_not_fit(call: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()  # type: ignore[operator]
