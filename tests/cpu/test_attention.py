"""Attention over the cache against the oracle, on every instruction set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import reference
from cpu.harness import F32, Runner, write_model
from longbow_quarrel import _core

N_TOKENS = 600  # more than a partition of 512
# n_heads, n_kv_heads, head_dim, window, softcap; heads are wide enough for 600 token ids
SHAPES = [
    (10, 5, 64, 0, 0.0),
    (12, 4, 64, 100, 0.0),
    (4, 1, 256, 0, 20.0),
    (8, 1, 80, 513, 0.0),
]
# f16 rounds K and V to 11 bits; sums are float32.
TOLERANCE = {"F32": 2e-5, "F16": 4e-3}


def inputs(n_heads: int, n_kv_heads: int, head_dim: int) -> tuple[F32, F32, F32]:
    random = np.random.default_rng(n_heads)

    def draw(heads: int) -> F32:
        values = random.standard_normal((N_TOKENS, heads * head_dim))
        return values.astype(np.float32)

    return draw(n_heads), draw(n_kv_heads), draw(n_kv_heads)


def runner(
    tmp_path: Path,
    shape: tuple[int, int, int, int, float],
    *,
    kv_dtype: str,
    isa: str = "auto",
    n_threads: int = 1,
) -> Runner:
    n_heads, n_kv_heads, head_dim, window, softcap = shape
    q, k, v = inputs(n_heads, n_kv_heads, head_dim)
    path = tmp_path / "model.gguf"
    if not path.exists():
        tables = {"q": q, "k": k, "v": v}
        write_model(path, {name: ("F32", x.view(np.uint8)) for name, x in tables.items()})

    def record(builder: _core.ProgramBuilder, file: _core.GGUFFile) -> _core.Program:
        values = [builder.embedding(builder.weight(file, name)) for name in ("q", "k", "v")]
        builder.kv_write(0, values[1], values[2])
        y = builder.attention(0, values[0], n_heads, head_dim**-0.5, softcap)
        return builder.finish(builder.select_rows(y))

    layers = [_core.KVLayer(n_kv_heads, head_dim, window)]
    options = {"isa": isa, "n_threads": n_threads, "kv_dtype": kv_dtype}
    return Runner(path, record, layers, capacity=N_TOKENS, **options)


@pytest.mark.parametrize("kv_dtype", list(TOLERANCE))
@pytest.mark.parametrize("shape", SHAPES)
def test_against_the_oracle(
    tmp_path: Path, shape: tuple[int, int, int, int, float], kv_dtype: str
) -> None:
    n_heads, n_kv_heads, head_dim, window, softcap = shape
    q, k, v = inputs(n_heads, n_kv_heads, head_dim)
    got = runner(tmp_path, shape, kv_dtype=kv_dtype)(N_TOKENS)
    expected = reference.attention(
        q.reshape(N_TOKENS, n_heads, head_dim),
        k.reshape(N_TOKENS, n_kv_heads, head_dim),
        v.reshape(N_TOKENS, n_kv_heads, head_dim),
        window=window or None,
        softcap=softcap,
    )
    error = np.abs(got - expected.reshape(got.shape)).max()
    assert error <= TOLERANCE[kv_dtype]


@pytest.mark.parametrize("kv_dtype", list(TOLERANCE))
@pytest.mark.parametrize("shape", SHAPES)
def test_same_bits(tmp_path: Path, shape: tuple[int, int, int, int, float], kv_dtype: str) -> None:
    """Threads share a context by partitions, chunks cut it anywhere: nothing shows."""
    expected = runner(tmp_path, shape, kv_dtype=kv_dtype)(N_TOKENS)
    for n_threads, chunk in ((1, 7), (2, 64), (2, 1), (3, 13)):
        run = runner(tmp_path, shape, kv_dtype=kv_dtype, n_threads=n_threads)
        assert np.array_equal(run(N_TOKENS, chunk), expected), (n_threads, chunk)
    for isa in _core.available_isas():
        run = runner(tmp_path, shape, kv_dtype=kv_dtype, isa=isa)
        assert np.array_equal(run(N_TOKENS), expected), isa
