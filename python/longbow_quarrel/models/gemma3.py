"""gemma3: local and global layers in turn, norms before and after each block, GELU."""

from __future__ import annotations

import math
from array import array

from longbow_quarrel import _core
from longbow_quarrel.errors import ModelFormatError
from longbow_quarrel.models.metadata import Hyperparameters, Metadata
from longbow_quarrel.models.recorder import Recorder

_DEFAULT_PERIOD = 6  # five local layers, then a global one
_LAYERS_OF_27B = 62  # the one size whose queries are scaled by the width per head


def _is_local(m: Metadata, n_layers: int) -> list[bool]:
    pattern = m.raw("attention.sliding_window_pattern")
    if hasattr(pattern, "__len__"):
        return [bool(local) for local in pattern[:n_layers]]
    period = int(pattern) if pattern is not None else _DEFAULT_PERIOD
    if period == 0:
        return [True] * n_layers
    return [layer % period < period - 1 for layer in range(n_layers)]


def record(file: _core.GGUFFile, p: Hyperparameters) -> _core.Program:
    """Record the forward pass (Gemma Team, "Gemma 3 Technical Report", 2025)."""
    m = Metadata(file)
    window = m.integer("attention.sliding_window", 0, low=0)
    local = _is_local(m, p.n_layers) if window else [False] * p.n_layers
    if len(local) != p.n_layers:
        raise ModelFormatError(
            f"{file.path}: gemma3.attention.sliding_window_pattern must name every layer."
        )
    width = p.n_embd / p.n_heads if p.n_layers == _LAYERS_OF_27B else p.head_dim

    r = Recorder(file, [_core.KVLayer(p.n_kv_heads, p.head_dim, window if w else 0) for w in local])
    # Linear scaling stretches the global layers only; a local layer never looks far.
    ropes = {
        True: r.rope_table(p.head_dim, m.number("rope.freq_base_swa", 10000.0), interleaved=False),
        False: r.rope_table(
            p.head_dim, p.rope_base, interleaved=False, linear_scale=p.rope_linear_scale
        ),
    }
    # In float32, as the model was trained.
    x = r.embedding(scale=array("f", [math.sqrt(p.n_embd)])[0])
    for layer in range(p.n_layers):
        block = f"blk.{layer}"
        rope = ropes[local[layer]]
        h = r.rms_norm(x, f"{block}.attn_norm", p.rms_eps)
        q = r.rms_norm(r.linear(h, f"{block}.attn_q"), f"{block}.attn_q_norm", p.rms_eps)
        k = r.rms_norm(r.linear(h, f"{block}.attn_k"), f"{block}.attn_k_norm", p.rms_eps)
        v = r.linear(h, f"{block}.attn_v")
        q = r.rope(q, rope, p.head_dim)
        k = r.rope(k, rope, p.head_dim)
        h = r.attention(layer, q, k, v, n_heads=p.n_heads, scale=width**-0.5)
        h = r.linear(h, f"{block}.attn_output")
        x = r.add(x, r.rms_norm(h, f"{block}.post_attention_norm", p.rms_eps))

        h = r.rms_norm(x, f"{block}.ffn_norm", p.rms_eps)
        h = r.gelu_mul(r.linear(h, f"{block}.ffn_gate"), r.linear(h, f"{block}.ffn_up"))
        h = r.linear(h, f"{block}.ffn_down")
        x = r.add(x, r.rms_norm(h, f"{block}.post_ffw_norm", p.rms_eps))
    softcap = m.number("final_logit_softcapping", 0.0)
    return r.finish(x, "output_norm", p.rms_eps, softcap=softcap)
