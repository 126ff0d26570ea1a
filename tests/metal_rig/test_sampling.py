"""argmax and top-k against a stable sort."""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from metal_rig import toolchain
from metal_rig.kernels import Library, Order, run_kernel
from metal_rig.shaders import SHADERS, shader_source

PACKAGES = toolchain.MSL_PACKAGES
RUNS_ON_MACS = True
THREADS, CHUNK = 256, 2048
Floats = npt.NDArray[np.float32]


def library(*, check_accesses: bool = False) -> Library:
    return Library(shader_source(SHADERS / "sampling.metal"), check_accesses=check_accesses)


def argmax(logits: Floats, order: Order = "both") -> list[int]:
    ids = np.full(len(logits), 2**32 - 1, np.uint32)
    run_kernel(
        library(),
        "argmax",
        [logits, ids, struct.pack("II", logits.shape[1], 0)],
        threadgroups=[len(logits)],
        threads=[THREADS],
        order=order,
    )
    return ids.tolist()


def top_k(
    logits: Floats, k: int, *, check_accesses: bool = False
) -> tuple[npt.NDArray[np.uint32], Floats]:
    n_rows, n_cols = logits.shape
    n_chunks = -(-n_cols // CHUNK)
    candidates = np.full((n_rows, n_chunks, k), 2**64 - 1, np.uint64)
    ids = np.full((n_rows, k), 2**32 - 1, np.uint32)
    values = np.full((n_rows, k), np.nan, np.float32)
    params = struct.pack("II", n_cols, k)
    kernels = library(check_accesses=check_accesses)
    for kernel, arguments, groups in (
        ("top_k_chunks", [logits, candidates, None, None, params], [n_chunks, n_rows]),
        ("top_k_merge", [None, candidates, ids, values, params], [n_rows]),
    ):
        run_kernel(kernels, kernel, arguments, threadgroups=groups, threads=[THREADS])
    return ids, values


def expected_order(logits: Floats) -> npt.NDArray[np.int64]:
    """Ids by falling logit, the lower one first among equals, NaN in front."""
    is_nan = np.isnan(logits)  # the first thing to sort by: above even infinity
    return np.lexsort((np.where(is_nan, 0, -logits), ~is_nan), axis=1)


@pytest.mark.parametrize("n_cols", [1, 31, 255, 4099, 49152])
def test_argmax(n_cols: int) -> None:
    logits = np.random.default_rng(n_cols).standard_normal((3, n_cols)).astype(np.float32)
    assert argmax(logits) == logits.argmax(axis=1).tolist()


@settings(max_examples=60, deadline=None)
@given(
    arrays.arrays(
        np.float32,
        (2, 300),
        elements=st.sampled_from([-np.inf, -1.5, -0.0, 0.0, 2.5, np.inf, np.nan]),
    )
)
@example(np.array([[np.nan, -np.inf, np.nan], [-0.0, 0.0, -0.0]], np.float32))
def test_ties_and_special_values(logits: Floats) -> None:
    expected = expected_order(logits)
    assert argmax(logits, "forward") == expected[:, 0].tolist()


@pytest.mark.parametrize(
    ("n_cols", "k"), [(1, 1), (40, 40), (2048, 1), (2049, 64), (6000, 1024), (32003, 50)]
)
def test_top_k(n_cols: int, k: int) -> None:
    rng = np.random.default_rng([n_cols, k])
    # few different values: many ties
    logits = (rng.integers(-50, 50, (2, n_cols)) / 4).astype(np.float32)
    logits[0, :: max(1, n_cols // 3)] = np.nan
    ids, values = top_k(logits, k)
    expected = expected_order(logits)[:, :k]
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(values, np.take_along_axis(logits, expected, axis=1))


def test_threadgroups_write_apart() -> None:
    logits = np.random.default_rng(1).standard_normal((2, 5000)).astype(np.float32)
    ids, _ = top_k(logits, 8, check_accesses=True)
    np.testing.assert_array_equal(ids, expected_order(logits)[:, :8])
