"""qwen3: every query and key head is normalised before it is rotated."""

from __future__ import annotations

from longbow_quarrel import _core
from longbow_quarrel.models.metadata import Hyperparameters
from longbow_quarrel.models.recorder import Recorder


def record(file: _core.GGUFFile, p: Hyperparameters) -> _core.Program:
    """Record the forward pass (Yang et al., "Qwen3 Technical Report", 2025)."""
    r = Recorder(file, [_core.KVLayer(p.n_kv_heads, p.head_dim)] * p.n_layers)
    rope = r.rope_table(
        p.head_dim, p.rope_base, interleaved=False, linear_scale=p.rope_linear_scale
    )
    x = r.embedding()
    for layer in range(p.n_layers):
        block = f"blk.{layer}"
        h = r.rms_norm(x, f"{block}.attn_norm", p.rms_eps)
        q = r.rms_norm(r.linear(h, f"{block}.attn_q"), f"{block}.attn_q_norm", p.rms_eps)
        k = r.rms_norm(r.linear(h, f"{block}.attn_k"), f"{block}.attn_k_norm", p.rms_eps)
        v = r.linear(h, f"{block}.attn_v")
        q = r.rope(q, rope, p.head_dim)
        k = r.rope(k, rope, p.head_dim)
        h = r.attention(layer, q, k, v, n_heads=p.n_heads, scale=p.head_dim**-0.5)
        x = r.add(x, r.linear(h, f"{block}.attn_output"))

        h = r.rms_norm(x, f"{block}.ffn_norm", p.rms_eps)
        x = r.add(x, r.swiglu(h, block))
    return r.finish(x, "output_norm", p.rms_eps)
