"""attention_prefill against the oracle; bits that chunks, batches and caches may not change."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metal_rig import toolchain
from metal_rig.attention_runner import F32, Batch, Shape, random_sequence, run_prefill
from metal_rig.kv_pack import KV_TYPES

PACKAGES = toolchain.MSL_PACKAGES
RUNS_ON_MACS = True
HEAD_SIZES = (16, 32, 64, 80, 96, 128, 256)
HALF_TYPES = ("f16", "q8_0", "q4_0")  # what matrices of half are meant for
# Around tiles of 8, blocks of 16, key tiles of 16 and 32: (length, queries), ragged in one batch.
EDGES = ((1, 1), (8, 8), (9, 2), (31, 31), (32, 1), (33, 17), (64, 3), (65, 65), (97, 33))


def prefill_batch(shape: Shape, sizes: Any, **options: Any) -> Batch:
    return Batch(
        shape, [random_sequence(shape, n, new, i) for i, (n, new) in enumerate(sizes)], **options
    )


def compare(actual: F32, batch: Batch, matrix: str) -> None:
    """Float matrices round nothing. Half ones round a score by about |q k| / 2048 and weights by
    2^-11, so results by 2^-11 of the values' spread, a few times that at worst."""
    expected = batch.expected()
    if matrix == "float":
        np.testing.assert_allclose(actual, expected, rtol=4e-6, atol=4e-6)
    else:
        np.testing.assert_allclose(actual, expected, rtol=2e-3, atol=2e-3)
        assert np.sqrt(np.mean((actual - expected) ** 2)) < 4e-4


def check(shape: Shape, sizes: Any = ((70, 40), (5, 5)), matrix: str = "float") -> None:
    batch = prefill_batch(shape, sizes)
    compare(run_prefill(batch, matrix), batch, matrix)


@pytest.mark.parametrize("head_dim", HEAD_SIZES)
@pytest.mark.parametrize("i", range(len(KV_TYPES)))
def test_types_and_head_sizes(head_dim: int, i: int) -> None:
    """Every type for K and for V at every head size, in pairs that differ from size to size."""
    v = KV_TYPES[(i + HEAD_SIZES.index(head_dim)) % len(KV_TYPES)]
    check(Shape(head_dim=head_dim, k_type=KV_TYPES[i], v_type=v))


@pytest.mark.parametrize("head_dim", HEAD_SIZES)
@pytest.mark.parametrize("i", range(len(HALF_TYPES)))
def test_matrices_of_half(head_dim: int, i: int) -> None:
    v = HALF_TYPES[(i + HEAD_SIZES.index(head_dim)) % len(HALF_TYPES)]
    check(Shape(head_dim=head_dim, k_type=HALF_TYPES[i], v_type=v), matrix="half")


@pytest.mark.parametrize("ratio", [1, 2, 3, 4, 5, 8, 11, 16])
def test_query_heads_per_kv_head(ratio: int) -> None:
    check(Shape(n_heads=2 * ratio, n_kv_heads=2, k_type="q8_0"), matrix="half")


@pytest.mark.parametrize("block_size", [8, 16, 24, 256])
@pytest.mark.parametrize("head_dim", [64, 256])
def test_lengths_around_edges(block_size: int, head_dim: int) -> None:
    """Key tiles are 32 keys long where a key takes at most 256 bytes, else 16."""
    shape = Shape(head_dim=head_dim, block_size=block_size, n_heads=3, n_kv_heads=1, v_type="q8_0")
    check(shape, EDGES)


@pytest.mark.parametrize(
    ("window", "sinks"), [(1, 0), (8, 0), (33, 4), (64, 0), (20, 70), (10, 33), (1000, 3)]
)
def test_window_and_sinks(window: int, sinks: int) -> None:
    check(Shape(window=window, sinks=sinks), (*EDGES, (200, 30)))


@pytest.mark.parametrize("softcap", [0.5, 30.0])
def test_softcap(softcap: float) -> None:
    check(Shape(softcap=softcap, k_type="f32", v_type="f32"))


def test_threadgroups_write_apart() -> None:
    shape = Shape(head_dim=80, n_heads=6)
    batch = prefill_batch(shape, ((40, 25),))
    compare(run_prefill(batch, "half", check_accesses=True), batch, "half")


def test_large_scores_do_not_overflow() -> None:
    shape = Shape(k_type="f32", v_type="f32")
    sequence = random_sequence(shape, 70, 30, 0)
    sequence.q *= 1000.0
    batch = Batch(shape, [sequence])
    np.testing.assert_allclose(run_prefill(batch, "float"), batch.expected(), rtol=1e-3, atol=1e-3)


def bits(batch: Batch, matrix: str = "half", **options: Any) -> bytes:
    return run_prefill(batch, matrix, order="forward", **options).tobytes()


@pytest.mark.parametrize("matrix", ["half", "float"])
@pytest.mark.parametrize("rest", [{}, {"window": 21, "sinks": 3}])
def test_chunks_do_not_change_bits(matrix: str, rest: dict[str, int]) -> None:
    """Chunks of one step, and chunks of different steps: a prefix that is cached already."""
    shape = Shape(n_heads=6, k_type="q8_0", **rest)
    whole = random_sequence(shape, 101, 101, 5)
    batch = Batch(shape, [whole])
    expected = run_prefill(batch, matrix, order="forward")
    for chunks in (1, 3, 10, 31, 64):
        assert bits(batch, matrix, chunks=chunks) == expected.tobytes()
    for first in (1, 30, 32, 77, 100):
        rest_of_it = dataclasses.replace(whole, q=whole.q[first:])
        assert bits(Batch(shape, [rest_of_it]), matrix) == expected[first:].tobytes()
    for end in (1, 31, 33, 64):  # earlier steps, when later tokens do not exist yet
        start_of_it = dataclasses.replace(whole, q=whole.q[:end], k=whole.k[:end], v=whole.v[:end])
        assert bits(Batch(shape, [start_of_it]), matrix) == expected[:end].tobytes()


@pytest.mark.parametrize("types", [("f16", "f16"), ("q4_0", "q8_0")])
def test_the_cache_does_not_change_bits(types: tuple[str, str]) -> None:
    """Contiguous, paged, any block size, and a window that still holds everything."""
    shape = Shape(k_type=types[0], v_type=types[1])
    contiguous = dataclasses.replace(shape, block_size=256)
    expected = bits(prefill_batch(contiguous, EDGES, shuffled=False))
    for block_size in (8, 16, 64):
        paged = dataclasses.replace(shape, block_size=block_size)
        assert bits(prefill_batch(paged, EDGES)) == expected
    assert bits(prefill_batch(dataclasses.replace(shape, window=97, sinks=4), EDGES)) == expected


def test_blocks_that_left_the_window_are_not_read() -> None:
    shape = Shape(window=40, sinks=5, block_size=8)
    sizes = (*EDGES, (200, 9))
    batch = prefill_batch(shape, sizes, keep=40)
    assert (batch.tables[-1] == -1).sum() > 10
    assert bits(batch) == bits(prefill_batch(shape, sizes))
    compare(run_prefill(batch, "float"), batch, "float")


def test_the_batch_does_not_change_bits() -> None:
    shape = Shape(n_heads=6, k_type="q8_0")
    sequences = [random_sequence(shape, n, new, n) for n, new in EDGES]
    together = run_prefill(Batch(shape, sequences), order="forward")
    row = 0
    for sequence in sequences:
        alone = run_prefill(Batch(shape, [sequence]), order="forward")
        assert alone.tobytes() == together[row : row + len(alone)].tobytes()
        row += len(alone)


def shapes() -> st.SearchStrategy[Shape]:
    return st.builds(
        lambda ratio, kv_heads, **rest: Shape(
            n_heads=ratio * kv_heads, n_kv_heads=kv_heads, **rest
        ),
        ratio=st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 12]),
        kv_heads=st.integers(1, 3),
        head_dim=st.sampled_from(HEAD_SIZES),
        k_type=st.sampled_from(KV_TYPES),
        v_type=st.sampled_from(KV_TYPES),
        block_size=st.sampled_from([8, 16, 24, 32, 64, 128, 256]),
        window=st.sampled_from([0, 0, 1, 7, 8, 33, 100]),
        sinks=st.sampled_from([0, 0, 1, 9, 40]),
        softcap=st.sampled_from([0.0, 0.0, 20.0]),
    )


SIZES = st.lists(
    st.tuples(st.integers(1, 150), st.integers(1, 60)).map(lambda s: (s[0], min(s))),
    min_size=1,
    max_size=3,
)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(shape=shapes(), sizes=SIZES)
def test_any_shape(shape: Shape, sizes: Any) -> None:
    check(shape, sizes)


@pytest.mark.slow
@pytest.mark.timeout(150)
@settings(max_examples=120, deadline=None)
@given(shape=shapes(), sizes=SIZES)
def test_any_shape_at_length(shape: Shape, sizes: Any) -> None:
    check(shape, sizes)
