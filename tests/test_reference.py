"""The oracle itself is checked against explicit loops and against properties it must have."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reference as ops


def _normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _attention_by_loop(q, k, v, scale, window, n_sinks, softcap):
    """One scalar score at a time, in Python floats; queries are the last rows of the context."""
    n_tokens, n_heads, head_dim = q.shape
    n_keys, n_kv_heads, _ = k.shape
    out = np.zeros(q.shape)
    for t in range(n_tokens):
        position = n_keys - n_tokens + t
        for h in range(n_heads):
            kv = h * n_kv_heads // n_heads
            weights = {}
            for j in range(position + 1):
                if window is not None and position - j >= window and j >= n_sinks:
                    continue
                score = scale * sum(float(q[t, h, d]) * float(k[j, kv, d]) for d in range(head_dim))
                weights[j] = math.exp(softcap * math.tanh(score / softcap) if softcap else score)
            total = sum(weights.values())
            for j, weight in weights.items():
                out[t, h] += weight / total * v[j, kv].astype(np.float64)
    return out


@settings(max_examples=40, deadline=None)
@given(
    n_tokens=st.integers(1, 5),
    n_past=st.integers(0, 6),
    n_kv_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    head_dim=st.sampled_from([1, 4, 6]),
    window=st.none() | st.integers(1, 8),
    n_sinks=st.integers(0, 2),
    softcap=st.sampled_from([0.0, 1.5]),
)
def test_attention_equals_explicit_loop(
    n_tokens, n_past, n_kv_heads, group, head_dim, window, n_sinks, softcap
):
    q = _normal(n_tokens, n_kv_heads * group, head_dim, seed=1)
    k = _normal(n_past + n_tokens, n_kv_heads, head_dim, seed=2)
    v = _normal(n_past + n_tokens, n_kv_heads, head_dim, seed=3)
    got = ops.attention(q, k, v, scale=0.7, window=window, n_sinks=n_sinks, softcap=softcap)
    want = _attention_by_loop(q, k, v, 0.7, window, n_sinks, softcap)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_attention_default_scale_is_inverse_root_of_head_dim():
    q, k, v = _normal(3, 2, 16), _normal(3, 2, 16, seed=1), _normal(3, 2, 16, seed=2)
    np.testing.assert_array_equal(ops.attention(q, k, v), ops.attention(q, k, v, scale=0.25))


def test_attention_survives_huge_scores():
    q, k = np.full((2, 1, 4), 1e4, np.float32), np.full((2, 1, 4), 1e4, np.float32)
    v = _normal(2, 1, 4)
    np.testing.assert_allclose(ops.attention(q, k, v)[1, 0], v.mean(axis=0)[0], rtol=1e-6)


def test_attention_mask_window_counts_the_query_itself():
    mask = ops.attention_mask([5], range(7), window=2, n_sinks=1)
    assert mask.tolist() == [[True, False, False, False, True, True, False]]


@pytest.mark.parametrize("interleaved", [True, False])
def test_rope_rotates_the_named_pairs(interleaved):
    x, head_dim, base = _normal(4, 2, 6), 6, 100.0
    factors = np.array([1.0, 2.0, 4.0], np.float32)
    positions = [0, 1, 7, 30]
    got = ops.rope(
        x, positions, interleaved=interleaved, base=base, freq_scale=0.5, freq_factors=factors
    )
    for t, position in enumerate(positions):
        for i in range(head_dim // 2):
            a, b = (2 * i, 2 * i + 1) if interleaved else (i, i + head_dim // 2)
            angle = position * 0.5 / float(factors[i]) / base ** (2 * i / head_dim)
            turned = complex(math.cos(angle), math.sin(angle))
            for h in range(2):
                want = complex(float(x[t, h, a]), float(x[t, h, b])) * turned
                assert got[t, h, a] == pytest.approx(want.real, abs=1e-6)
                assert got[t, h, b] == pytest.approx(want.imag, abs=1e-6)


@given(shift=st.integers(0, 1000), interleaved=st.booleans())
def test_rope_scores_depend_on_distance_only(shift, interleaved):
    q, k = _normal(1, 1, 8), _normal(1, 1, 8, seed=1)

    def score(p: int, j: int) -> float:
        a = ops.rope(q.astype(np.float64), [p], interleaved=interleaved)
        b = ops.rope(k.astype(np.float64), [j], interleaved=interleaved)
        return float((a * b).sum())

    assert score(9 + shift, 4 + shift) == pytest.approx(score(9, 4), abs=1e-9)


def test_rms_norm_by_loop_and_per_head():
    x, weight = _normal(3, 2, 5), _normal(5, seed=1)
    got = ops.rms_norm(x, weight, 1e-5)
    for t in range(3):
        for h in range(2):
            row = [float(value) for value in x[t, h]]
            root = math.sqrt(sum(value * value for value in row) / 5 + 1e-5)
            want = [value / root * float(w) for value, w in zip(row, weight, strict=True)]
            np.testing.assert_allclose(got[t, h], want, rtol=1e-6)


def test_linear_with_and_without_bias():
    x, weight, bias = _normal(2, 3), _normal(4, 3, seed=1), _normal(4, seed=2)
    want = [
        [sum(float(x[t, i] * 1.0) * float(weight[o, i]) for i in range(3)) for o in range(4)]
        for t in range(2)
    ]
    np.testing.assert_allclose(ops.linear(x, weight), want, rtol=1e-6)
    np.testing.assert_allclose(ops.linear(x, weight, bias), want + bias, rtol=1e-5)


@pytest.mark.parametrize("gate", [-200.0, -3.0, -0.1, 0.0, 0.1, 2.0, 100.0])
def test_gated_activations(gate):
    g, up = np.array([[gate]], np.float32), np.array([[3.0]], np.float32)
    sigmoid = 1.0 / (1.0 + math.exp(-gate)) if gate > -700 else 0.0
    inner = math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)
    assert ops.silu_mul(g, up)[0, 0] == pytest.approx(gate * sigmoid * 3.0, rel=1e-6, abs=1e-12)
    assert ops.gelu_mul(g, up)[0, 0] == pytest.approx(
        0.5 * gate * (1 + math.tanh(inner)) * 3.0, rel=1e-6, abs=1e-12
    )
    # the approximation stays within 5e-4 of GELU's definition by the normal distribution
    exact = gate * 0.5 * (1 + math.erf(gate / math.sqrt(2)))
    assert ops.gelu_mul(g, up)[0, 0] / 3.0 == pytest.approx(exact, abs=5e-4)


def test_embedding_add_select_rows_and_softcap():
    table = _normal(5, 3)
    np.testing.assert_array_equal(ops.embedding(table, [4, 0, 4])[2], table[4])
    np.testing.assert_allclose(ops.embedding(table, [1], scale=2.0), 2 * table[1:2])
    np.testing.assert_allclose(ops.add(table, table, 0.5), 1.5 * table, rtol=1e-6)
    np.testing.assert_array_equal(ops.select_rows(table, [2, 2, 0]), table[[2, 2, 0]])
    capped = ops.logit_softcap(np.array([-1e6, 0.0, 0.01, 1e6], np.float32), 30.0)
    np.testing.assert_allclose(capped, [-30.0, 0.0, 0.01, 30.0], atol=1e-6)
