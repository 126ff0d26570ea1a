"""linear_decode, _prefill and _gated against the NumPy oracle; a row's bits in any company."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

import reference
from gguf import GGMLQuantizationType as Type
from metal_rig import toolchain
from metal_rig.kernels import Library, Order, run_kernel
from metal_rig.shaders import SHADERS, shader_source
from metal_rig.weights import TYPES, Weights, block_elements, random_weights

PACKAGES = toolchain.MSL_PACKAGES
RUNS_ON_MACS = True
PHASES = ("decode", "prefill")
# Function constants and shapes of params.h.
HAS_BIAS, HAS_RESIDUAL, TOKENS_PER_PASS, ACTIVATION = 16, 17, 18, 19
ACTIVATIONS = ("silu", "gelu")
THREADS = 128
DECODE_ROWS, PREFILL_ROWS, PREFILL_TOKENS = 16, 64, 32

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """A layer's tensors: x [n_tokens, n_cols], bias [n_rows], residual [n_tokens, n_rows]."""

    dtype: Type
    weights: Weights
    x: Floats
    bias: Floats
    residual: Floats


def make_case(dtype: Type, n_tokens: int, n_rows: int, n_cols: int) -> Case:
    rng = np.random.default_rng([n_tokens, n_rows, n_cols])
    return Case(
        dtype,
        random_weights(dtype, n_rows, n_cols, seed=n_cols),
        rng.standard_normal((n_tokens, n_cols)).astype(np.float32),
        rng.standard_normal(n_rows).astype(np.float32),
        rng.standard_normal((n_tokens, n_rows)).astype(np.float32),
    )


def run_linear(
    phase: str,
    case: Case,
    *,
    tokens: list[int] | None = None,
    bias: bool = False,
    residual_scale: float | None = None,
    tokens_per_pass: int = 4,
    order: Order = "forward",
    check_accesses: bool = False,
) -> Floats:
    """All rows of x, or those of `tokens`; other rows of the result stay NaN."""
    n_rows, n_cols = case.weights.values.shape
    chosen = np.array(range(len(case.x)) if tokens is None else tokens, np.uint32)
    library = Library(
        shader_source(SHADERS / f"linear_{phase}.metal"),
        {
            HAS_BIAS: np.bool_(bias),
            HAS_RESIDUAL: np.bool_(residual_scale is not None),
            TOKENS_PER_PASS: np.uint32(tokens_per_pass),
        },
        check_accesses=check_accesses,
    )
    n_tokens, group_rows, group_tokens = (
        (len(chosen), DECODE_ROWS, tokens_per_pass)
        if phase == "decode"
        else (len(chosen), PREFILL_ROWS, PREFILL_TOKENS)
    )
    out = np.full((len(case.x), n_rows), np.nan, np.float32)
    params = struct.pack("IIIf", n_tokens, n_rows, n_cols, residual_scale or 0.0)
    run_kernel(
        library,
        f"linear_{phase}_{case.dtype.name}",
        [case.x, case.weights.blocks, case.bias, case.residual, out, chosen, params],
        threadgroups=[-(-n_tokens // group_tokens), -(-n_rows // group_rows)],
        threads=[THREADS],
        order=order,
    )
    return out


def check(case: Case, got: Floats, expected: Floats) -> None:
    """Within float32's rounding of the sum of magnitudes."""
    magnitude = np.abs(case.x).astype(np.float64) @ np.abs(case.weights.values).T
    assert not np.isnan(got).any()
    assert np.max(np.abs(got - expected) / magnitude) < 4e-7


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("dtype", TYPES, ids=lambda t: t.name)
def test_every_type_in_both_orders(phase: str, dtype: Type) -> None:
    """The numbers of rows and tokens divide nothing; a block more than a round of 32 lanes."""
    n_cols = 1280 if block_elements(dtype) == 256 else 288
    case = make_case(dtype, 5, 21, n_cols)
    got = run_linear(phase, case, order="both")
    check(case, got, reference.linear(case.x, case.weights.values))


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("dtype", [Type.F32, Type.F16, Type.BF16], ids=lambda t: t.name)
@pytest.mark.parametrize("n_cols", [1, 7, 36, 100])
def test_plain_rows_of_any_length(phase: str, dtype: Type, n_cols: int) -> None:
    case = make_case(dtype, 3, 5, n_cols)
    got = run_linear(phase, case, order="both")
    check(case, got, reference.linear(case.x, case.weights.values))


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("n_rows", [1, 15, 16, 17, 64, 65, 130])
@pytest.mark.parametrize("n_tokens", [1, 4, 9])
def test_edges_of_tiles(phase: str, n_rows: int, n_tokens: int) -> None:
    case = make_case(Type.Q4_0, n_tokens, n_rows, 64)
    got = run_linear(phase, case)
    check(case, got, reference.linear(case.x, case.weights.values))


@pytest.mark.parametrize("phase", PHASES)
def test_bias_and_residual(phase: str) -> None:
    case = make_case(Type.Q8_0, 3, 19, 96)
    product = reference.linear(case.x, case.weights.values, case.bias)
    check(case, run_linear(phase, case, bias=True), product)
    got = run_linear(phase, case, bias=True, residual_scale=0.5)
    check(case, got, reference.add(case.residual, product, 0.5))


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("dtype", TYPES, ids=lambda t: t.name)
def test_a_row_s_bits_do_not_depend_on_the_others(phase: str, dtype: Type) -> None:
    """Alone, among all, in any place, in any order, for any number of tokens per pass."""
    n_tokens = 9 if phase == "decode" else 34
    case = make_case(dtype, n_tokens, 17, max(64, block_elements(dtype)))
    together = run_linear(phase, case, tokens_per_pass=4)
    for tokens in ([0], [8], [8, 3, 5], list(range(n_tokens - 1, -1, -1))):
        for tokens_per_pass in (1, 2, 3) if phase == "decode" else (0,):
            got = run_linear(phase, case, tokens=tokens, tokens_per_pass=tokens_per_pass)
            np.testing.assert_array_equal(got[tokens], together[tokens])
            others = np.setdiff1d(np.arange(n_tokens), tokens)
            assert np.isnan(got[others]).all(), "rows that take no part are not written"


@pytest.mark.parametrize("dtype", TYPES, ids=lambda t: t.name)
def test_a_long_row_alone_and_in_company(dtype: Type) -> None:
    """Lanes have none, some and many slices, so that loads ahead begin, go on and end."""
    elements = block_elements(dtype)
    for n_blocks in (1, 9, 18) if elements > 1 else (100, 520):
        case = make_case(dtype, 2, 3, n_blocks * elements)
        together = run_linear("decode", case, tokens_per_pass=4)
        check(case, together, reference.linear(case.x, case.weights.values))
        for token, tokens_per_pass in ((0, 1), (1, 1), (0, 2), (1, 3)):
            alone = run_linear("decode", case, tokens=[token], tokens_per_pass=tokens_per_pass)
            np.testing.assert_array_equal(alone[token], together[token])


@pytest.mark.parametrize("phase", PHASES)
def test_threadgroups_write_apart(phase: str) -> None:
    case = make_case(Type.Q5_0, 9, 70, 64)
    got = run_linear(phase, case, order="both", check_accesses=True)
    check(case, got, reference.linear(case.x, case.weights.values))


def run_gated(gate: Case, up: Case, activation: str, tokens: list[int]) -> Floats:
    n_rows, n_cols = gate.weights.values.shape
    out = np.full((len(gate.x), n_rows), np.nan, np.float32)
    constants: dict[int, np.generic] = {
        TOKENS_PER_PASS: np.uint32(4),
        ACTIVATION: np.uint32(ACTIVATIONS.index(activation)),
    }
    chosen = np.array(tokens, np.uint32)
    params = struct.pack("IIIf", len(tokens), n_rows, n_cols, 0.0)
    run_kernel(
        Library(shader_source(SHADERS / "linear_gated.metal"), constants),
        f"linear_gated_{gate.dtype.name}",
        [gate.x, gate.weights.blocks, up.weights.blocks, out, chosen, params],
        threadgroups=[-(-len(tokens) // 4), -(-n_rows // DECODE_ROWS)],
        threads=[THREADS],
    )
    return out


def activated(gate: Floats, up: Floats, activation: str) -> Floats:
    out = np.full_like(gate, np.nan)
    run_kernel(
        Library(shader_source(SHADERS / "elementwise.metal")),
        f"{activation}_mul",
        [gate, up, out, struct.pack("If", gate.size, 0.0)],
        threadgroups=[-(-gate.size // 128)],
        threads=[32],
    )
    return out


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", TYPES, ids=lambda t: t.name)
def test_gated_is_two_linears_and_an_activation(dtype: Type, activation: str) -> None:
    """Bit for bit; the parts are compared with the oracle elsewhere."""
    n_cols = max(64, block_elements(dtype))
    gate = make_case(dtype, 6, 18, n_cols)
    up = Case(dtype, random_weights(dtype, 18, n_cols, 7), gate.x, gate.bias, gate.residual)
    tokens = [5, 1, 0, 2, 3]
    got = run_gated(gate, up, activation, tokens)
    expected = activated(run_linear("decode", gate), run_linear("decode", up), activation)
    np.testing.assert_array_equal(got[tokens], expected[tokens])
    assert np.isnan(got[4]).all()
