"""qwen2: biases on the query, key and value projections, rotation of half heads."""

from __future__ import annotations

from longbow_quarrel import _core
from longbow_quarrel.models.metadata import Hyperparameters
from longbow_quarrel.models.recorder import Recorder


def record(file: _core.GGUFFile, p: Hyperparameters) -> _core.Program:
    """Record the forward pass (Yang et al., "Qwen2 Technical Report", 2024)."""
    r = Recorder(file, [_core.KVLayer(p.n_kv_heads, p.head_dim)] * p.n_layers)
    rope = r.rope_table(
        p.head_dim, p.rope_base, interleaved=False, linear_scale=p.rope_linear_scale
    )
    x = r.embedding()
    for layer in range(p.n_layers):
        block = f"blk.{layer}"
        h = r.rms_norm(x, f"{block}.attn_norm", p.rms_eps)
        q = r.rope(r.linear(h, f"{block}.attn_q"), rope, p.head_dim)
        k = r.rope(r.linear(h, f"{block}.attn_k"), rope, p.head_dim)
        v = r.linear(h, f"{block}.attn_v")
        h = r.attention(layer, q, k, v, n_heads=p.n_heads, scale=p.head_dim**-0.5)
        x = r.add(x, r.linear(h, f"{block}.attn_output"))

        h = r.rms_norm(x, f"{block}.ffn_norm", p.rms_eps)
        h = r.silu_mul(r.linear(h, f"{block}.ffn_gate"), r.linear(h, f"{block}.ffn_up"))
        x = r.add(x, r.linear(h, f"{block}.ffn_down"))
    return r.finish(x, "output_norm", p.rms_eps)
