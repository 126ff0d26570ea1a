"""Kernels that treat rows or elements alike, against the NumPy oracle and in both lane orders."""

from __future__ import annotations

import functools
import struct

import numpy as np
import numpy.typing as npt
import pytest
from gguf.quants import dequantize

import gguf
import reference
from metal_rig import toolchain
from metal_rig.kernels import Library, run_kernel
from metal_rig.shaders import SHADERS, shader_source
from metal_rig.weights import random_weights

PACKAGES = toolchain.MSL_PACKAGES
RUNS_ON_MACS = True
F32 = npt.NDArray[np.float32]
TYPES = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]
TYPES += ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]


@functools.cache
def library(stem: str, interleaved: bool | None = None) -> Library:
    constants = {} if interleaved is None else {0: np.bool_(interleaved)}
    return Library(shader_source(SHADERS / f"{stem}.metal"), constants)


def normal(seed: int, *shape: int) -> F32:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def elementwise(kernel: str, inputs: list[F32], factor: float, threads: int = 64) -> F32:
    out = np.full_like(inputs[0], np.nan)
    x, y = [*inputs, None][:2]
    run_kernel(
        library("elementwise"),
        kernel,
        [x, y, out, struct.pack("If", x.size, factor)],
        threadgroups=[-(-x.size // (4 * threads))],
        threads=[threads],
    )
    return out


@pytest.mark.parametrize("n", [1, 3, 4, 130, 1000])
def test_elementwise(n: int) -> None:
    x, y = 4 * normal(n, n), normal(n + 1, n)
    for kernel, inputs, factor, want in [
        ("add", [x, y], 0.25, reference.add(x, y, 0.25)),
        ("scale", [x], 3.0, x * np.float32(3)),
        ("softcap", [x], 2.5, reference.logit_softcap(x, 2.5)),
        ("silu_mul", [x, y], 0.0, reference.silu_mul(x, y)),
        ("gelu_mul", [x, y], 0.0, reference.gelu_mul(x, y)),
    ]:
        got = elementwise(kernel, inputs, factor)
        np.testing.assert_allclose(got, want, rtol=3e-6, atol=2e-6, err_msg=kernel)


def test_gates_of_any_size_stay_finite() -> None:
    x = np.array([-1e4, -100, -1e-30, 0, 1e-30, 100, 1e4, 3e5], np.float32)
    y = np.ones_like(x)
    np.testing.assert_allclose(
        elementwise("silu_mul", [x, y], 0), reference.silu_mul(x, y), rtol=1e-6, atol=1e-30
    )
    np.testing.assert_allclose(
        elementwise("gelu_mul", [x, y], 0), reference.gelu_mul(x, y), rtol=1e-6, atol=1e-30
    )


@pytest.mark.parametrize("n", [4, 576, 2052])
def test_add_rms_norm(n: int) -> None:
    x, y, weight = normal(n, 3, n), normal(n + 1, 3, n), normal(n + 2, n)
    want_sum = reference.add(x, y, 0.5)
    total, out = np.full((2, 3, n), np.nan, np.float32)
    arguments = [x, y, weight, total, out, struct.pack("Iff", n, 1e-5, 0.5)]
    run_kernel(library("rms_norm"), "add_rms_norm", arguments, threadgroups=[3], threads=[64])
    np.testing.assert_allclose(total, want_sum, rtol=1e-6, atol=1e-6)
    want = reference.rms_norm(want_sum, weight, 1e-5)
    np.testing.assert_allclose(out, want, rtol=3e-6, atol=2e-6)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("head_dim", "n_rotated"), [(64, 64), (16, 16), (80, 32), (256, 256)])
def test_rope(interleaved: bool, head_dim: int, n_rotated: int) -> None:
    n_tokens, n_heads = 5, 3
    x = normal(head_dim, n_tokens, n_heads, head_dim)
    positions = np.array([0, 1, 17, 4000, 131071])
    angles = positions[:, None] * reference.rope_frequencies(n_rotated)
    table = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    out = np.full_like(x, np.nan)
    run_kernel(
        library("rope", interleaved),
        "rope",
        [x, table, out, struct.pack("III", n_heads, head_dim, n_rotated)],
        threadgroups=[-(-n_heads * head_dim // 2 // 96), n_tokens],
        threads=[96],
    )
    want = x.copy()
    want[..., :n_rotated] = reference.rope(x[..., :n_rotated], positions, interleaved=interleaved)
    np.testing.assert_allclose(out, want, rtol=1e-6, atol=1e-6)


def test_select_rows() -> None:
    x, rows = normal(0, 7, 36), np.array([6, 0, 0, 3], np.int32)
    out = np.full((4, 36), np.nan, np.float32)
    run_kernel(
        library("select_rows"),
        "select_rows",
        [x, rows, out, struct.pack("I", 36)],
        threadgroups=[2, 4],
        threads=[8],
    )
    np.testing.assert_array_equal(out, reference.select_rows(x, rows))


@pytest.mark.parametrize("dtype", TYPES)
def test_embedding(dtype: str) -> None:
    n = 512 if dtype.endswith("_K") else 64
    table = random_weights(gguf.GGMLQuantizationType[dtype], 9, n, seed=1).blocks
    tokens = np.array([8, 0, 3, 3], np.int32)
    out = np.full((4, n), np.nan, np.float32)
    run_kernel(
        library("embedding"),
        f"embedding_{dtype}",
        [table, tokens, out, struct.pack("If", n, 1.5)],
        threadgroups=[-(-n // 16 // 3), 4],
        threads=[3],
    )
    values = dequantize(table, gguf.GGMLQuantizationType[dtype]).astype(np.float32)
    np.testing.assert_allclose(out, reference.embedding(values, tokens, 1.5), rtol=1e-6, atol=1e-6)
