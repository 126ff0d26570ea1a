"""kv_write: every type and head size, byte for byte against the layout written down in NumPy."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from metal_rig import toolchain
from metal_rig.kernels import Library, run_kernel
from metal_rig.kv_pack import KV_TYPES, head_bytes, kv_type, pack, store
from metal_rig.shaders import SHADERS, shader_source

PACKAGES = toolchain.MSL_PACKAGES
RUNS_ON_MACS = True
HEAD_SIZES = (32, 64, 80, 96, 128, 256)


def run_kv_write(
    k: np.ndarray,
    v: np.ndarray,
    slots: np.ndarray,
    caches: tuple[np.ndarray, np.ndarray],
    types: tuple[str, str],
    block_size: int,
    *,
    check_accesses: bool = False,
) -> None:
    """Writes k and v [n_tokens, n_kv_heads, head_dim] into caches [n_blocks, n_kv_heads, bytes]."""
    n_tokens, n_kv_heads, head_dim = k.shape
    constants = {
        0: np.uint32(head_dim),
        1: np.uint32(block_size),
        2: kv_type(types[0]),
        3: kv_type(types[1]),
    }
    source = shader_source(SHADERS / "kv_write.metal")
    threads = n_kv_heads * -(-head_dim // 32) * 4
    run_kernel(
        Library(source, constants, check_accesses=check_accesses),
        "kv_write",
        [k, v, slots.astype(np.int32), *caches, struct.pack("I", n_kv_heads)],
        threadgroups=[-(-threads // 32), n_tokens, 2],
        threads=[32],
    )


def check(
    head_dim: int, types: tuple[str, str], block_size: int = 16, check_accesses: bool = False
) -> None:
    rng = np.random.default_rng(head_dim + block_size)
    n_tokens, n_kv_heads, n_blocks = 7, 3, 3
    k, v = rng.standard_normal((2, n_tokens, n_kv_heads, head_dim)).astype(np.float32)
    k[0, 0] = 0.0  # a scale of 0
    v[0, 0, 1:3] = 5.0, -5.0  # two extremes: the first one gives q4_0's scale its sign
    # Accesses are checked by words of 4 bytes, of which two tokens' scales share one.
    step = 2 if check_accesses else 1
    slots = step * rng.permutation(n_blocks * block_size // step)[:n_tokens]
    actual, expected = [], []
    for rows, name in zip((k, v), types, strict=True):
        shape = (n_blocks, n_kv_heads, head_bytes(name, head_dim, block_size))
        actual.append(rng.integers(0, 256, shape, dtype=np.uint8))  # what others left there
        expected.append(actual[-1].copy())
        for head in range(n_kv_heads):
            pack(expected[-1], store(rows[:, head], name), slots, name, head, block_size)
    run_kv_write(
        k, v, slots, (actual[0], actual[1]), types, block_size, check_accesses=check_accesses
    )
    np.testing.assert_array_equal(actual[0], expected[0])
    np.testing.assert_array_equal(actual[1], expected[1])


@pytest.mark.parametrize("head_dim", HEAD_SIZES)
@pytest.mark.parametrize("i", range(len(KV_TYPES)))
def test_types(head_dim: int, i: int) -> None:
    check(head_dim, (KV_TYPES[i], KV_TYPES[(i + head_dim // 16) % len(KV_TYPES)]))


@pytest.mark.parametrize("block_size", [8, 24, 256])
def test_block_sizes(block_size: int) -> None:
    check(64, ("q4_0", "q8_0"), block_size)


def test_threadgroups_write_apart() -> None:
    check(80, ("q4_0", "q8_0"), check_accesses=True)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["q8_0", "q4_0"])
def test_what_is_not_finite_makes_its_group_nan(name: str, value: float) -> None:
    k = np.ones((1, 1, 64), np.float32)
    k[0, 0, 37] = value
    caches = tuple(np.zeros((1, 1, head_bytes(name, 64, 8)), np.uint8) for _ in range(2))
    run_kv_write(k, k, np.array([3]), (caches[0], caches[1]), (name, name), 8)
    n_data = 8 * 64 * (8 if name == "q8_0" else 4) // 8
    scales = caches[0][0, 0, n_data:].view(np.float16).reshape(2, 8)[:, 3]
    assert np.isfinite(scales[0])
    assert np.isnan(scales[1])
