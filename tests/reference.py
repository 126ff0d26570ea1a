"""NumPy oracle of every op of the vocabulary: slow, plain, and the definition of right.

Every function takes float32 arrays, computes in float64 and returns the dtype it was given, so its
own rounding error is one final rounding. A test compares a kernel with it under the tolerance
that the kernel states. Names of axes:

``n_tokens`` rows of a step, ``n_embd`` model width, ``n_heads`` query heads, ``n_kv_heads`` key and
value heads (a divisor of ``n_heads``), ``head_dim`` width of one head, ``n_keys`` visible slots.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]
Ints = npt.ArrayLike


def embedding(weight: Array, token_ids: Ints, scale: float = 1.0) -> Array:
    """Rows of the embedding table, times a constant.

    weight: [vocab_size, n_embd]; token_ids: [n_tokens] -> [n_tokens, n_embd].
    """
    rows = weight[np.asarray(token_ids, dtype=np.int64)]
    return (rows.astype(np.float64) * scale).astype(weight.dtype)


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """Root-mean-square norm over the last axis (Zhang & Sennrich 2019, arXiv:1910.07467).

    x: [..., n], weight: [n] -> [..., n]. With x: [n_tokens, n_heads, head_dim] and weight:
    [head_dim] it is the per-head query/key norm of Qwen 3 and Gemma 3.
    """
    x64 = x.astype(np.float64)
    mean_square = np.mean(x64 * x64, axis=-1, keepdims=True)
    return (x64 / np.sqrt(mean_square + eps) * weight.astype(np.float64)).astype(x.dtype)


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """``x @ weight.T + bias``.

    x: [n_tokens, n_in], weight: [n_out, n_in], bias: [n_out] -> [n_tokens, n_out].
    """
    y = x.astype(np.float64) @ weight.astype(np.float64).T
    if bias is not None:
        y = y + bias.astype(np.float64)
    return y.astype(x.dtype)


def rope_frequencies(
    head_dim: int,
    base: float = 10000.0,
    freq_scale: float = 1.0,
    freq_factors: Array | None = None,
) -> npt.NDArray[np.float64]:
    """Radians per position of every rotated pair: [head_dim / 2] float64.

    freq_scale multiplies all of them (linear scaling by a factor f is ``freq_scale = 1 / f``);
    freq_factors [head_dim / 2] *divide* them one by one (Llama 3.1's ``rope_freqs.weight``).
    """
    frequencies = base ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if freq_factors is not None:
        frequencies = frequencies / freq_factors.astype(np.float64)
    return frequencies * freq_scale


def rope(
    x: Array,
    positions: Ints,
    *,
    interleaved: bool,
    base: float = 10000.0,
    freq_scale: float = 1.0,
    freq_factors: Array | None = None,
) -> Array:
    """Rotary position embedding (Su et al. 2021, arXiv:2104.09864) over whole heads.

    x: [n_tokens, n_heads, head_dim], positions: [n_tokens] -> like x. ``interleaved`` rotates the
    pairs (2i, 2i + 1) (llama, granite); otherwise the pairs (i, i + head_dim / 2), the half-split
    or "neox" layout (qwen2, qwen3, gemma3).
    """
    head_dim = x.shape[-1]
    frequencies = rope_frequencies(head_dim, base, freq_scale, freq_factors)
    angles = np.asarray(positions, dtype=np.float64)[:, None] * frequencies
    cos, sin = np.cos(angles)[:, None, :], np.sin(angles)[:, None, :]
    if interleaved:
        first, second = slice(0, None, 2), slice(1, None, 2)
    else:
        first, second = slice(0, head_dim // 2), slice(head_dim // 2, None)
    x64 = x.astype(np.float64)
    a, b = x64[..., first], x64[..., second]
    out = np.empty_like(x64)
    out[..., first] = a * cos - b * sin
    out[..., second] = b * cos + a * sin
    return out.astype(x.dtype)


def attention_mask(
    q_positions: Ints, k_positions: Ints, window: int | None = None, n_sinks: int = 0
) -> npt.NDArray[np.bool_]:
    """Which keys a query sees: [n_tokens, n_keys], True = visible.

    Causal: a key's position may not exceed the query's. ``window`` keeps the last ``window``
    positions, the query's own included; ``n_sinks`` first positions stay visible whatever the
    window (StreamingLLM, Xiao et al. 2023, arXiv:2309.17453).
    """
    p = np.asarray(q_positions, dtype=np.int64)[:, None]
    j = np.asarray(k_positions, dtype=np.int64)[None, :]
    visible: npt.NDArray[np.bool_] = j <= p
    if window is not None:
        visible &= (p - j < window) | (j < n_sinks)
    return visible


def attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    q_positions: Ints | None = None,
    k_positions: Ints | None = None,
    scale: float | None = None,
    window: int | None = None,
    n_sinks: int = 0,
    softcap: float = 0.0,
) -> Array:
    """Causal softmax attention with grouped query heads (Ainslie et al. 2023, arXiv:2305.13245).

    q: [n_tokens, n_heads, head_dim]; k, v: [n_keys, n_kv_heads, head_dim] -> like q. Query head h
    reads KV head ``h // (n_heads / n_kv_heads)``. Keys sit at k_positions (default 0 ... n_keys-1),
    queries at q_positions (default: the last n_tokens of them, as in a decode or prefill step).
    scale defaults to ``1 / sqrt(head_dim)``; softcap c > 0 maps a score s to ``c * tanh(s / c)``
    before the mask; window and n_sinks as in :func:`attention_mask`.
    """
    n_tokens, n_heads, head_dim = q.shape
    n_keys, n_kv_heads, _ = k.shape
    if k_positions is None:
        k_positions = np.arange(n_keys)
    if q_positions is None:
        q_positions = np.arange(n_keys - n_tokens, n_keys)
    if scale is None:
        scale = 1.0 / math.sqrt(head_dim)
    visible = attention_mask(q_positions, k_positions, window, n_sinks)
    out = np.empty(q.shape, dtype=np.float64)
    for head in range(n_heads):
        kv_head = head // (n_heads // n_kv_heads)
        scores = q[:, head].astype(np.float64) @ k[:, kv_head].astype(np.float64).T * scale
        if softcap > 0.0:
            scores = softcap * np.tanh(scores / softcap)
        out[:, head] = _softmax(np.where(visible, scores, -np.inf)) @ v[:, kv_head].astype(
            np.float64
        )
    return out.astype(q.dtype)


def kv_stored(x: Array, dtype: str) -> Array:
    """What a cache of element type ``dtype`` gives back for K or V, [..., head_dim] float32.

    q8_0 and q4_0 are whole numbers times a float16 scale for each 32 dimensions (the last 16 where
    head_dim asks for it), of the Walsh-Hadamard transform of those 32 (of 16 where head_dim is no
    multiple of 32; Ashkboos et al. 2024, arXiv:2404.00456). q4_0 takes the best of eight scales.
    """
    if dtype == "f32":
        return x
    if dtype == "f16":
        return x.astype(np.float16).astype(np.float32)
    if dtype == "bf16":
        bits = x.view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)
    size = 32 if x.shape[-1] % 32 == 0 else 16
    transformed = _hadamard(x, size)
    out = np.empty(x.shape, np.float64)
    for first in range(0, x.shape[-1], 32):
        group = transformed[..., first : first + 32]
        out[..., first : first + 32] = _q8_0(group) if dtype == "q8_0" else _q4_0(group)
    return _hadamard(out, size) / size


def _hadamard(x: Array, size: int) -> Array:
    y = x.copy()
    apart = 1
    while apart < size:
        pairs = y.reshape(*y.shape[:-1], -1, 2, apart)
        a, b = pairs[..., 0, :], pairs[..., 1, :]
        y = np.stack([a + b, a - b], axis=-2).reshape(x.shape)
        apart *= 2
    return y


def _q8_0(x: Array) -> Array:
    return _quantized(x, np.abs(x).max(axis=-1, keepdims=True) / np.float32(127), -127, 127)


def _q4_0(x: Array) -> Array:
    extreme = np.take_along_axis(x, np.abs(x).argmax(axis=-1)[..., None], axis=-1)
    best = np.zeros(x.shape)
    least = np.full(extreme.shape, np.inf)
    for i in range(8):
        shrink = np.float32(1) - np.float32(0.04) * np.float32(i)
        tried = _quantized(x, extreme / np.float32(-8) * shrink, -8, 7)
        error = ((tried - x) ** 2).sum(axis=-1, keepdims=True)
        best = np.where(error < least, tried, best)
        least = np.minimum(error, least)
    return best


def _quantized(x: Array, scale: Array, lowest: int, highest: int) -> Array:
    rounded = scale.astype(np.float16).astype(np.float32)
    inverse = np.divide(1, rounded, out=np.zeros_like(rounded), where=rounded != 0)
    return np.rint(np.clip(x * inverse, lowest, highest)).astype(np.float64) * rounded


def _softmax(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    weights: npt.NDArray[np.float64] = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def silu_mul(gate: Array, up: Array) -> Array:
    """SwiGLU's product ``gate * sigmoid(gate) * up`` (Shazeer 2020, arXiv:2002.05202).

    gate, up: [n_tokens, n_ff] -> [n_tokens, n_ff].
    """
    g = gate.astype(np.float64)
    # sigmoid by tanh: exp would overflow for a large negative gate
    return (g * 0.5 * (1.0 + np.tanh(0.5 * g)) * up.astype(np.float64)).astype(gate.dtype)


def gelu_mul(gate: Array, up: Array) -> Array:
    """GeGLU's product with the tanh approximation of GELU (Hendrycks & Gimpel, arXiv:1606.08415).

    gate, up: [n_tokens, n_ff] -> [n_tokens, n_ff].
    """
    g = gate.astype(np.float64)
    inner = math.sqrt(2.0 / math.pi) * (g + 0.044715 * g**3)
    return (0.5 * g * (1.0 + np.tanh(inner)) * up.astype(np.float64)).astype(gate.dtype)


def add(x: Array, y: Array, y_scale: float = 1.0) -> Array:
    """``x + y_scale * y``, the residual addition (y_scale: Granite's residual multiplier)."""
    return (x.astype(np.float64) + y_scale * y.astype(np.float64)).astype(x.dtype)


def select_rows(x: Array, rows: Ints) -> Array:
    """Rows of x by index, as before the LM head. x: [n_tokens, n], rows: [m] -> [m, n]."""
    return x[np.asarray(rows, dtype=np.int64)]


def logit_softcap(logits: Array, cap: float) -> Array:
    """``cap * tanh(logits / cap)`` elementwise (Gemma's final soft-cap)."""
    return (cap * np.tanh(logits.astype(np.float64) / cap)).astype(logits.dtype)
