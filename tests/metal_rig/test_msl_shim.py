"""The metal_stdlib shim against NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from metal_rig import toolchain
from metal_rig.msl.compiler import MetalCompileError, compile_metal
from metal_rig.msl.runner import Library, run_kernel

PACKAGES = toolchain.MSL_PACKAGES
SOURCE = Path(__file__).parent / "testdata" / "shim.metal"


@pytest.fixture(scope="module")
def library() -> Library:
    return Library(SOURCE)


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(1).standard_normal(64).astype(np.float32) * 3


def test_vectors(library: Library) -> None:
    given = np.arange(32, dtype=np.float16).reshape(8, 4) * 2
    out = np.zeros((8, 4), np.float32)
    run_kernel(library, "vectors", [out, given], threadgroups=[1], threads=[8])
    v = given.astype(np.float32)
    v[:, :2] += v[:, 2:]
    v = v[:, ::-1] * 2
    assert np.array_equal(out, np.where(v > 100, np.float32(-1), v))


def test_packed_vectors_have_no_padding(library: Library) -> None:
    out = np.zeros((5, 3), np.float32)
    run_kernel(library, "packed", [out], threadgroups=[5], threads=[1])
    assert np.array_equal(out, [[-2.0, 1.5, i] for i in range(5)])


def test_bfloat_rounds_to_nearest_even(library: Library) -> None:
    bits = np.array(
        [0x3F800000, 0x3F808000, 0x3F818000, 0x3F808001, 0x7FC00001, 0xFF7FFFFF], np.uint32
    )
    out = np.zeros(6, np.uint16)
    run_kernel(library, "to_bfloat", [out, bits.view(np.float32)], threadgroups=[1], threads=[6])
    assert [hex(v) for v in out] == ["0x3f80", "0x3f80", "0x3f82", "0x3f81", "0x7fc0", "0xff80"]


def test_math(library: Library, x: np.ndarray) -> None:
    out = np.zeros((64, 10), np.float32)
    run_kernel(library, "math", [out, x], threadgroups=[2], threads=[32])
    a = np.abs(x)
    bits = [int(v).bit_count() for v in x.view(np.uint32)]
    want = [np.exp(x), np.log(a), 1 / np.sqrt(a), np.tanh(x), np.clip(x, -1, 1), 2 * x + 1]
    want += [np.sign(x), -x, np.array(bits, np.float32), np.full(64, 3.0)]
    np.testing.assert_allclose(out, np.stack(want, axis=1), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("maybe", [False, True])
def test_function_constants(maybe: bool) -> None:
    """One compilation serves all values; derived constants follow."""
    constants: dict[int, np.generic] = {0: np.uint32(5)}
    if maybe:
        constants[1] = np.bool_(False)
    out = np.zeros(4, np.float32)
    run_kernel(Library(SOURCE, constants), "constants", [out], threadgroups=[1], threads=[4])
    assert np.array_equal(out, np.array([10, 20, 40, 80]) + maybe)


@pytest.mark.parametrize("n_lanes", [64, 20])
def test_simdgroup_functions(library: Library, x: np.ndarray, n_lanes: int) -> None:
    """Also in a simdgroup with lanes missing: those take no part."""
    x = x[:n_lanes]
    out = np.zeros((n_lanes, 12), np.float32)
    run_kernel(library, "simdgroup_functions", [out, x], threadgroups=[1], threads=[n_lanes])
    for start in range(0, n_lanes, 32):
        v = x[start : start + 32]
        got = out[start : start + 32]
        lanes = np.arange(len(v))

        def at(index: np.ndarray, missing: float = np.nan, v: np.ndarray = v) -> np.ndarray:
            inside = index < len(v)
            return np.where(inside, v[np.minimum(index, len(v) - 1)], np.float32(missing))

        fill = np.where(lanes + 3 < 32, at(lanes + 3), np.float32(99))
        sums = np.cumsum(v, dtype=np.float64)
        want = [np.full(len(v), v.sum()), np.full(len(v), v.max()), np.full(len(v), v.min())]
        want += [at(lanes ^ 5), np.full(len(v), v[7]), fill, sums, sums - v, v > 0]
        want += [np.ones(len(v)), at(lanes ^ 1), at(31 - lanes)]
        np.testing.assert_allclose(got, np.stack(want, axis=1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kernel", "dtype"), [("f32", np.float32), ("f16", np.float16), ("bf16", None)]
)
def test_simdgroup_matrices(library: Library, kernel: str, dtype: type | None) -> None:
    rng = np.random.default_rng(2)
    a, b = (rng.integers(-8, 9, (8, 8)).astype(np.float32) for _ in range(2))
    stored = [
        m.astype(dtype) if dtype else (m.view(np.uint32) >> 16).astype(np.uint16) for m in (a, b)
    ]
    out = np.zeros((8, 8), np.float32)
    run_kernel(library, f"matrix_product_{kernel}", [*stored, out], threadgroups=[1], threads=[32])
    assert np.array_equal(out, a @ b.T + 1)


def test_there_is_no_double(library: Library) -> None:
    out = np.zeros(1, np.uint32)
    run_kernel(library, "literals", [out], threadgroups=[1], threads=[1])
    assert out[0] == 4


def test_matrices(library: Library) -> None:
    columns = np.arange(6, dtype=np.float32).reshape(3, 2)
    v = np.array([1, -2, 3, 0], np.float32)  # float3 takes the room of four
    out = np.zeros((2, 2), np.float32)
    run_kernel(library, "matrices", [out, columns, v], threadgroups=[1], threads=[1])
    m = 2 * columns.T + np.eye(2, 3, dtype=np.float32)
    assert np.array_equal(out, np.stack([m @ v[:3], m[[0, 1], [1, 2]]]))


def test_atomics(library: Library) -> None:
    values = np.random.default_rng(3).integers(0, 4, 4096).astype(np.uint32)
    bins = np.zeros(4, np.uint32)
    run_kernel(library, "histogram", [bins, values], threadgroups=[64], threads=[64])
    assert np.array_equal(bins, np.bincount(values))


def test_builtins_at_ragged_edges(library: Library) -> None:
    width, height, tx, ty = 7, 5, 4, 2
    out = np.zeros((height, width, 8), np.uint32)
    run_kernel(library, "builtins", [out], grid=[width, height], threads=[tx, ty])
    for y in range(height):
        for x in range(width):
            size_x, size_y = min(tx, width - x // tx * tx), min(ty, height - y // ty * ty)
            flat = y % ty * size_x + x % tx
            size = size_x * 100 + size_y
            want = [x // tx, y // ty, x % tx, y % ty, size, flat, 2 * 100 + 3, 32]
            assert out[y, x].tolist() == want


def test_every_swizzle_and_overload_compiles_without_warnings() -> None:
    compile_metal(SOURCE, warnings=True)


@pytest.mark.parametrize(
    "body",
    [
        "out[0] = exp(bfloat(1.0f));",  # Metal has no bfloat overloads
        "out[0] = simd_sum(bfloat(1.0f));",
        "out[0] = max(bfloat(1.0f), bfloat(2.0f));",
        "float2 v = float2(1.0f); out[0] = v.z;",
        "half4 h = half4(0.0h); float4 f = h; out[0] = f.x;",  # no implicit vector conversion
        "out[0] = as_type<float>(1ul);",
        "out[0] = printf;",
    ],
)
def test_what_metal_refuses_is_refused(body: str) -> None:
    head = "#include <metal_stdlib>\nusing namespace metal;\nkernel void k(device float* out) {"
    source = f"{head}\n{body}\n}}"
    with pytest.raises(MetalCompileError, match=r"source.metal:4:"):
        compile_metal(source)
