"""Matrix products of every weight type against the oracle, on every instruction set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf.quants import dequantize

import gguf
import reference
from cpu.harness import F32, Runner, random_weight, write_model
from longbow_quarrel import _core

SMALL = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]
SUPER = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
# Full tiles of 16 outputs and ragged ones; inputs of one block and of many. At least N_TOKENS
# outputs, since a token id is below the number of logits.
SHAPES = [
    (dtype, n_out, n_in) for dtype in SMALL for n_out, n_in in [(48, 32), (50, 96), (33, 608)]
]
SHAPES += [(dtype, n_out, n_in) for dtype in SUPER for n_out, n_in in [(48, 256), (37, 768)]]
N_TOKENS = 33


def model(
    tmp_path: Path, dtype: str, n_out: int, n_in: int, x: F32, bias: F32 | None = None
) -> Path:
    tensors = {
        "x": ("F32", x.view(np.uint8)),
        "w": (dtype, random_weight(dtype, n_out, n_in, seed=n_out)),
    }
    if bias is not None:
        tensors["b"] = ("F32", bias.view(np.uint8))
    return write_model(tmp_path / "model.gguf", tensors)


def runner(path: Path, *, with_bias: bool = False, isa: str = "auto", n_threads: int = 1) -> Runner:
    def record(builder: _core.ProgramBuilder, file: _core.GGUFFile) -> _core.Program:
        x = builder.select_rows(builder.embedding(builder.weight(file, "x")))
        bias = builder.weight(file, "b") if with_bias else None
        return builder.finish(builder.linear(x, builder.weight(file, "w"), bias))

    unused = [_core.KVLayer(1, 16)]  # a cache has at least one group
    return Runner(path, record, unused, isa=isa, n_threads=n_threads)


def activations(n_in: int) -> F32:
    random = np.random.default_rng(n_in)
    x = random.standard_normal((64, n_in)).astype(np.float32)
    x[:, n_in // 3] *= 30.0  # an outlier, as in real models
    return x


def weights(path: Path) -> F32:
    tensor = next(t for t in gguf.GGUFReader(path).tensors if t.name == "w")
    values: F32 = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
    return values


def tolerance(dtype: str, x: F32, w: F32) -> F32:
    """Bound of |ours - exact|: [n_tokens, n_out].

    An activation is off by at most half a step of 1/32512 of its row's largest magnitude (not at
    all where weights are floats); sums round at every block.
    """
    magnitudes = np.abs(w).sum(axis=1)
    products = np.abs(x) @ np.abs(w).T
    step = np.abs(x).max(axis=1, keepdims=True) / 32512.0
    quantization = 0.0 if dtype in ("F32", "F16", "BF16") else 0.5 * step * magnitudes
    # Minimums of the K formats cancel against the rest, so their terms are larger than w itself.
    rounding = (8.0 if dtype in SUPER else 2.0) * w.shape[1] * 2.0**-24 * products
    bound: F32 = (1.01 * quantization + rounding + 1e-6).astype(np.float32)
    return bound


@pytest.mark.parametrize(("dtype", "n_out", "n_in"), SHAPES)
def test_against_the_oracle(tmp_path: Path, dtype: str, n_out: int, n_in: int) -> None:
    x = activations(n_in)
    path = model(tmp_path, dtype, n_out, n_in, x)
    w = weights(path)
    got = runner(path)(N_TOKENS)
    expected = reference.linear(x[:N_TOKENS], w)
    assert np.all(np.abs(got - expected) <= tolerance(dtype, x[:N_TOKENS], w))


@pytest.mark.parametrize(("dtype", "n_out", "n_in"), SHAPES)
def test_same_bits(tmp_path: Path, dtype: str, n_out: int, n_in: int) -> None:
    """Whatever the instruction set, the number of tokens at a time and the number of threads."""
    path = model(tmp_path, dtype, n_out, n_in, activations(n_in))
    expected = runner(path, isa="portable")(N_TOKENS)
    for isa in _core.available_isas():
        run = runner(path, isa=isa)
        for chunk in (1, 2, 3, 5, 8, 13, 33):
            assert np.array_equal(run(N_TOKENS, chunk), expected), (isa, chunk)
    for n_threads in (2, 3):
        assert np.array_equal(runner(path, n_threads=n_threads)(N_TOKENS), expected)


@pytest.mark.parametrize("dtype", ["F32", "Q4_1", "Q6_K"])
def test_bias(tmp_path: Path, dtype: str) -> None:
    x = activations(256)
    bias = np.random.default_rng(1).standard_normal(21).astype(np.float32)
    path = model(tmp_path, dtype, 21, 256, x, bias)
    got = runner(path, with_bias=True)(9)
    without = runner(path)(9)
    assert np.allclose(got, without + bias, rtol=1e-5, atol=1e-5)
    assert not np.allclose(got, without, atol=0.1)


@pytest.mark.parametrize("isa", _core.available_isas())
def test_zeros_and_what_is_not_finite(tmp_path: Path, isa: str) -> None:
    x = activations(64)
    x[0] = 0.0
    x[1, 5] = np.inf
    x[2, 7] = np.nan
    x[3] *= 1e-36
    path = model(tmp_path, "Q8_0", 16, 64, x)
    got = runner(path, isa=isa)(5)
    assert np.all(got[0] == 0.0)
    assert np.all(np.isnan(got[1:3]))
    assert np.all(np.abs(got[3]) < 1e-30)
    assert np.all(np.isfinite(got[4]))
