"""Attention over every element type, block size and head size of the cache, against the oracle.

The oracle attends to K and V as the cache gives them back (``reference.kv_stored``), so what is
left is float32 rounding, whatever the type.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import reference
from cpu.harness import F32, I32, Runner, write_model
from longbow_quarrel import _core

TYPES = ["f32", "f16", "bf16", "q8_0", "q4_0"]
BLOCK_SIZES = [8, 16, 24, 32, 64, 128, 256]
TOLERANCE = 3e-5  # outputs are of the order of one; sums of some hundred float32 products


@dataclass(frozen=True)
class Case:
    n_heads: int = 4
    n_kv_heads: int = 2
    head_dim: int = 64
    n_tokens: int = 150
    k_type: str = "f16"
    v_type: str = "f16"
    block_size: int = 16
    window: int = 0
    sinks: int = 0
    softcap: float = 0.0

    def inputs(self) -> tuple[F32, F32, F32]:
        """q, k and v: [n_tokens, heads, head_dim]; some dimensions are large, as in real keys."""
        random = np.random.default_rng(self.n_heads * self.head_dim)

        def draw(heads: int) -> F32:
            x = random.standard_normal((self.n_tokens, heads, self.head_dim))
            return (x * random.choice([0.2, 1.0, 3.0], self.head_dim)).astype(np.float32)

        q, k, v = draw(self.n_heads), draw(self.n_kv_heads), draw(self.n_kv_heads)
        return q, k, np.clip(v, -4, 4)

    def expected(self) -> F32:
        q, k, v = self.inputs()
        k, v = reference.kv_stored(k, self.k_type), reference.kv_stored(v, self.v_type)
        window = self.window or None
        y = reference.attention(q, k, v, window=window, n_sinks=self.sinks, softcap=self.softcap)
        return y.reshape(self.n_tokens, -1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def runner(folder: Path, case: Case, *, isa: str = "auto", n_threads: int = 1) -> Runner:
    path = folder / f"{case.n_heads}-{case.n_kv_heads}-{case.head_dim}-{case.n_tokens}.gguf"
    if not path.exists():
        rows = [x.reshape(case.n_tokens, -1) for x in case.inputs()]
        tables = dict(zip(("q", "k", "v"), rows, strict=True))
        write_model(path, {name: ("F32", x.view(np.uint8)) for name, x in tables.items()})

    def record(builder: _core.ProgramBuilder, file: _core.GGUFFile) -> _core.Program:
        values = [builder.embedding(builder.weight(file, name)) for name in ("q", "k", "v")]
        builder.kv_write(0, values[1], values[2])
        scale = case.head_dim**-0.5
        y = builder.attention(0, values[0], case.n_heads, scale, case.softcap)
        return builder.finish(builder.select_rows(y))

    return Runner(
        path,
        record,
        [_core.KVLayer(case.n_kv_heads, case.head_dim, 0)],
        capacity=case.n_tokens,
        kv_dtype=case.k_type,
        v_dtype=case.v_type,
        block_size=case.block_size,
        mask=(case.window, case.sinks),
        isa=isa,
        n_threads=n_threads,
    )


def check(folder: Path, case: Case, chunk: int = 64) -> F32:
    got = runner(folder, case)(case.n_tokens, chunk)
    np.testing.assert_allclose(got, case.expected(), rtol=0, atol=TOLERANCE)
    return got


@pytest.mark.parametrize(("k_type", "v_type"), list(itertools.product(TYPES, TYPES)))
def test_every_pair_of_types(folder: Path, k_type: str, v_type: str) -> None:
    check(folder, Case(k_type=k_type, v_type=v_type))


@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256])
@pytest.mark.parametrize("kv_type", TYPES)
def test_every_head_size(folder: Path, head_dim: int, kv_type: str) -> None:
    check(folder, Case(head_dim=head_dim, k_type=kv_type, v_type=kv_type, block_size=8))


@pytest.mark.parametrize("kv_type", TYPES)
def test_block_sizes_give_the_same_bits(folder: Path, kv_type: str) -> None:
    base = Case(head_dim=80, n_tokens=300, k_type=kv_type, v_type=kv_type)
    for window, sinks in ((0, 0), (70, 9)):
        case = replace(base, window=window, sinks=sinks)
        expected = check(folder, case)
        for block_size in BLOCK_SIZES:
            run = runner(folder, replace(case, block_size=block_size))
            assert np.array_equal(run(case.n_tokens), expected), block_size
            assert np.array_equal(run(case.n_tokens, 1), expected), block_size


@pytest.mark.parametrize("block_size", [8, 16, 24])
@pytest.mark.parametrize("kv_type", TYPES)
def test_instruction_sets_give_the_same_bits(folder: Path, kv_type: str, block_size: int) -> None:
    case = Case(k_type=kv_type, v_type=kv_type, block_size=block_size, window=40, sinks=3)
    expected = check(folder, case)
    for isa, chunk in itertools.product(_core.available_isas(), (64, 1)):
        run = runner(folder, case, isa=isa)
        assert np.array_equal(run(case.n_tokens, chunk), expected), (isa, chunk)


@pytest.mark.parametrize(("n_heads", "n_kv_heads"), [(3, 3), (9, 3), (4, 1), (14, 2), (32, 1)])
def test_every_ratio_of_heads(folder: Path, n_heads: int, n_kv_heads: int) -> None:
    case = Case(n_heads, n_kv_heads, k_type="q8_0", v_type="q4_0")
    expected = check(folder, case)
    assert np.array_equal(check(folder, case, chunk=1), expected)


def test_a_window_across_partitions(folder: Path) -> None:
    """Sinks in the first 512 positions, the window in the third: the second is not visited."""
    case = Case(20, 4, n_tokens=1200, block_size=8, k_type="q8_0", v_type="f16")
    for window, sinks in ((100, 0), (100, 4), (513, 70), (1, 600), (2000, 4)):
        masked = replace(case, window=window, sinks=sinks)
        expected = check(folder, masked)
        split = runner(folder, masked, n_threads=2)
        assert np.array_equal(split(case.n_tokens, 33), expected), (window, sinks)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_windows_and_sinks(folder: Path, data: st.DataObject) -> None:
    draw = data.draw
    case = Case(
        *draw(st.sampled_from([(4, 4), (9, 3), (8, 1)])),
        k_type=draw(st.sampled_from(TYPES)),
        v_type=draw(st.sampled_from(TYPES)),
        block_size=draw(st.sampled_from(BLOCK_SIZES)),
        window=draw(st.integers(0, 170)),
        softcap=draw(st.sampled_from([0.0, 20.0])),
    )
    sinks = draw(st.integers(0, 170)) if case.window else 0  # window 0: the layer's own mask
    check(folder, replace(case, sinks=sinks), chunk=draw(st.integers(1, 64)))


@pytest.mark.parametrize("kv_type", ["f16", "q8_0", "q4_0"])
def test_ragged_batches(folder: Path, kv_type: str) -> None:
    """Prompts in chunks beside decodes: each as if it were alone."""
    case = Case(k_type=kv_type, v_type=kv_type, block_size=8, window=50, sinks=2)
    ids: I32 = np.arange(case.n_tokens, dtype=np.int32)
    texts = [(ids[:150], 13), (ids[::-1][:40].copy(), 1), (ids[7:8], 1), (ids[20:99], 30)]
    run = runner(folder, case, n_threads=2)
    for text, together in zip(texts, run.ragged(texts), strict=True):
        assert np.array_equal(run.ragged([text])[0], together)
