"""attention_decode and its reduction against the oracle; bits that nothing may change."""

from __future__ import annotations

import dataclasses
import itertools
import random
import subprocess
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metal_rig import toolchain
from metal_rig.attention_runner import Batch, Shape, random_sequence, run_decode
from metal_rig.gpu import catalogue
from metal_rig.kv_pack import KV_TYPES
from metal_rig.shaders import SHADERS

PACKAGES = toolchain.MSL_PACKAGES
RUNS_ON_MACS = True
HEAD_SIZES = (16, 32, 64, 80, 96, 128, 256)
# Around tiles of 8, blocks of 16, rounds of 32, partitions of 64; ragged in one batch.
EDGES = (1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 129, 193)
TOLERANCE = {"rtol": 3e-6, "atol": 2e-6}  # float32 sums of a few hundred terms


def decode_batch(shape: Shape, lengths: tuple[int, ...], **options: Any) -> Batch:
    return Batch(shape, [random_sequence(shape, n, 1, i) for i, n in enumerate(lengths)], **options)


def check(shape: Shape, lengths: tuple[int, ...] = (5, 64, 150), **options: Any) -> None:
    batch = decode_batch(shape, lengths)
    np.testing.assert_allclose(run_decode(batch, **options), batch.expected(), **TOLERANCE)


@pytest.mark.parametrize("head_dim", HEAD_SIZES)
@pytest.mark.parametrize("i", range(len(KV_TYPES)))
def test_types_and_head_sizes(head_dim: int, i: int) -> None:
    """Every type for K and for V at every head size, in pairs that differ from size to size."""
    v = KV_TYPES[(i + HEAD_SIZES.index(head_dim)) % len(KV_TYPES)]
    check(Shape(head_dim=head_dim, k_type=KV_TYPES[i], v_type=v))


@pytest.mark.parametrize("ratio", [1, 2, 3, 4, 5, 8, 11, 16])
def test_query_heads_per_kv_head(ratio: int) -> None:
    check(Shape(n_heads=2 * ratio, n_kv_heads=2, k_type="q8_0"))
    check(Shape(n_heads=ratio, n_kv_heads=1, head_dim=256, v_type="q4_0"))


@pytest.mark.parametrize("block_size", [8, 16, 24, 32, 256])
def test_lengths_around_edges(block_size: int) -> None:
    check(Shape(block_size=block_size, v_type="q8_0"), EDGES)
    check(Shape(block_size=block_size, k_type="q4_0", v_type="q4_0"), EDGES)


@pytest.mark.parametrize(("partition", "round_"), [(64, 64), (96, 32), (512, 512), (1024, 256)])
@pytest.mark.parametrize("dtype", ["f16", "q8_0", "q4_0"])
def test_partitions_and_rounds(partition: int, round_: int, dtype: str) -> None:
    types = {"k_type": dtype, "v_type": dtype}
    shape = Shape(partition=partition, round=round_, n_heads=1, n_kv_heads=1, **types)
    check(shape, (partition, partition + 1, 2 * partition + 7))


def test_many_partitions_are_joined_in_passes() -> None:
    check(Shape(partition=32, n_heads=1, n_kv_heads=1), (32 * 70 + 3,))


@pytest.mark.parametrize(
    ("window", "sinks"), [(1, 0), (8, 0), (33, 4), (64, 0), (65, 70), (10, 64), (1000, 3)]
)
def test_window_and_sinks(window: int, sinks: int) -> None:
    check(Shape(window=window, sinks=sinks, head_dim=128), EDGES)
    check(Shape(window=window, sinks=sinks, k_type="q4_0", v_type="q8_0"), EDGES)


@pytest.mark.parametrize(
    ("head_dim", "k_type", "v_type"),
    [(128, "q8_0", "f16"), (96, "q8_0", "bf16"), (64, "q4_0", "f16")],
)
def test_windows_that_begin_within_a_round(head_dim: int, k_type: str, v_type: str) -> None:
    """Which simdgroup has a token differs from a round that begins late to the next one."""
    types = {"k_type": k_type, "v_type": v_type}
    check(Shape(head_dim=head_dim, partition=512, round=256, window=300, **types), (396, 451))


@pytest.mark.parametrize("softcap", [0.5, 30.0])
def test_softcap(softcap: float) -> None:
    check(Shape(softcap=softcap, k_type="f32", v_type="f32"))


def test_threadgroups_write_apart() -> None:
    check(Shape(head_dim=80, n_heads=6), (3, 100), check_accesses=True)


def test_large_scores_do_not_overflow() -> None:
    shape = Shape(k_type="f32", v_type="f32")
    sequence = random_sequence(shape, 70, 1, 0)
    sequence.q *= 1000.0
    batch = Batch(shape, [sequence])
    np.testing.assert_allclose(run_decode(batch), batch.expected(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", ["q8_0", "q4_0"])
@pytest.mark.parametrize("ratio", [4, 6])
@pytest.mark.parametrize(("partition", "round_"), [(64, 32), (64, 64), (256, 256)])
def test_magnitudes_of_integers(dtype: str, ratio: int, partition: int, round_: int) -> None:
    """Scales from the least to large, in any order; queries that are small, and none at all. A
    simdgroup has no, one or more tiles of a round's values."""
    types = {"k_type": dtype, "v_type": dtype}
    shape = Shape(partition=partition, round=round_, n_heads=ratio, n_kv_heads=1, **types)
    sequences = [random_sequence(shape, 2 * partition + 22, 1, seed) for seed in range(4)]
    for i, s in enumerate(sequences):
        s.v *= np.float32(10) ** np.linspace(-4, 4, len(s.v), dtype=np.float32)[:, None, None]
        s.q *= (1.0, 1e-6, 0.0, 3.0)[i]
        if i % 2:
            s.v = np.ascontiguousarray(s.v[::-1])
    batch = Batch(shape, sequences)
    error = np.abs(run_decode(batch) - batch.expected())
    assert error.max() < 3e-6 * np.abs(batch.expected()).max()


@pytest.mark.parametrize("dtype", ["q8_0", "q4_0"])
@pytest.mark.parametrize("ratio", [4, 6])
def test_magnitudes_of_heads(dtype: str, ratio: int) -> None:
    """No head's queries are rounded to steps of another's."""
    shape = Shape(head_dim=128, n_heads=ratio, n_kv_heads=1, k_type=dtype, v_type=dtype)
    sequence = random_sequence(shape, 150, 1, 0)
    sequence.q *= np.float32(10) ** np.linspace(-3, 0.5, ratio, dtype=np.float32)[:, None]
    batch = Batch(shape, [sequence])
    np.testing.assert_allclose(run_decode(batch), batch.expected(), **TOLERANCE)


def bits(batch: Batch) -> bytes:
    return run_decode(batch, order="forward").tobytes()


@pytest.mark.parametrize(
    "types", [("f16", "f16"), ("q4_0", "bf16"), ("f32", "q8_0"), ("q8_0", "q4_0"), ("q4_0", "q4_0")]
)
def test_the_cache_does_not_change_bits(types: tuple[str, str]) -> None:
    """Contiguous, paged, any block size, and a window that still holds everything."""
    shape = Shape(k_type=types[0], v_type=types[1])
    expected = bits(decode_batch(dataclasses.replace(shape, block_size=256), EDGES, shuffled=False))
    for block_size in (8, 16, 64):
        assert (
            bits(decode_batch(dataclasses.replace(shape, block_size=block_size), EDGES)) == expected
        )
    assert bits(decode_batch(dataclasses.replace(shape, window=193, sinks=4), EDGES)) == expected


def test_blocks_that_left_the_window_are_not_read() -> None:
    shape = Shape(window=40, sinks=5, block_size=8)
    batch = decode_batch(shape, EDGES, keep=40)
    assert (batch.tables[-1, :-5] == -1).any()
    assert bits(batch) == bits(decode_batch(shape, EDGES))
    np.testing.assert_allclose(run_decode(batch), batch.expected(), **TOLERANCE)


def test_the_batch_does_not_change_bits() -> None:
    shape = Shape(n_heads=6, k_type="q8_0", v_type="q4_0")
    sequences = [random_sequence(shape, n, 1, n) for n in EDGES]
    together = run_decode(Batch(shape, sequences), order="forward")
    for i, sequence in enumerate(sequences):
        alone = run_decode(Batch(shape, [sequence]), order="forward")
        assert alone.tobytes() == together[i : i + 1].tobytes()


CHOICES: dict[str, list[Any]] = {
    "ratio": [1, 2, 3, 4, 5, 6, 7, 8, 12],
    "n_kv_heads": [1, 2, 3],
    "head_dim": [8, 48, *HEAD_SIZES, 200],
    "k_type": list(KV_TYPES),
    "v_type": list(KV_TYPES),
    "block_size": [8, 16, 24, 32, 64, 128, 256],
    "partition": [32, 64, 192, 512],
    "n_rounds": [1, 1, 2, 4, 16],  # or as many as are long enough
    "window": [0, 0, 1, 7, 8, 33, 100, 300],
    "sinks": [0, 0, 1, 9, 40],
    "softcap": [0.0, 0.0, 20.0],
}


def shape_of(ratio: int, n_kv_heads: int, partition: int, n_rounds: int, **rest: Any) -> Shape:
    heads = {"n_heads": ratio * n_kv_heads, "n_kv_heads": n_kv_heads}
    round_ = max(32, partition // n_rounds // 32 * 32)
    return Shape(**heads, partition=partition, round=round_, **rest)


# Not hypothesis: the same shapes on every machine, so that kernels can be compiled beforehand.
@pytest.mark.parametrize("seed", range(40))
def test_any_shape(seed: int) -> None:
    rng = random.Random(seed)
    shape = shape_of(**{name: rng.choice(values) for name, values in CHOICES.items()})
    check(shape, (rng.randint(260, 700), *(rng.randint(1, 260) for _ in range(rng.randint(0, 3)))))


LENGTHS = st.lists(st.integers(1, 260), min_size=1, max_size=4).map(tuple)
SHAPES = st.builds(shape_of, **{name: st.sampled_from(v) for name, v in CHOICES.items()})


@pytest.mark.slow
@pytest.mark.timeout(120)
@settings(max_examples=400, deadline=None)
@given(shape=SHAPES, lengths=LENGTHS)
def test_any_shape_at_length(shape: Shape, lengths: tuple[int, ...]) -> None:
    check(shape, lengths)


@pytest.mark.compiler
def test_layout_and_params_compile_for_the_host() -> None:
    """The host includes the same headers; its sizes are the shaders'."""
    source = (
        '#include "kv_layout.h"\n'
        "static_assert(kv_head_bytes(kKVF16, 64, 16) == 2048);\n"
        "static_assert(kv_head_bytes(kKVQ8_0, 80, 8) == 8 * 80 + 8 * 3 * 2);\n"
        "static_assert(kv_head_bytes(kKVQ4_0, 128, 32) == 32 * 64 + 32 * 4 * 2);\n"
        "static_assert(attention_slots(99, 0, 0, 64) == 2 && attention_slots(99, 8, 4, 32) == 3);\n"
        "static_assert(attention_decode_memory(128, 8, 512, 512, false, false) == 16384);\n"
        "static_assert(attention_decode_memory(80, 4, 512, 512, true, false) == 10000);\n"
    )
    for k, v, head_dim, group in itertools.product(range(5), range(5), (16, 128), (1, 4, 5, 8)):
        types = KV_TYPES[k], KV_TYPES[v]
        partition, round_ = catalogue.device_partition(head_dim, *types, group)
        calls = {f"attention_partition({k}, {v}, {head_dim}, {group})": partition}
        calls[f"attention_round({k}, {v}, {group}, {partition})"] = round_
        source += "".join(f"static_assert({call} == {n});\n" for call, n in calls.items())
    flags = ["-std=c++20", "-x", "c++", "-fsyntax-only", "-Wall", "-Wextra", "-Werror"]
    result = subprocess.run(
        ["c++", *flags, f"-I{SHADERS}", "-"],
        input=source,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert result.returncode == 0, result.stderr
