"""llama: SmolLM2, Llama 2 and 3 (with rope frequency factors), Mistral."""

from __future__ import annotations

from longbow_quarrel import _core
from longbow_quarrel.models.metadata import Hyperparameters
from longbow_quarrel.models.recorder import Recorder


def record(file: _core.GGUFFile, p: Hyperparameters) -> _core.Program:
    """Record the forward pass (Touvron et al., "LLaMA", 2023)."""
    return record_layers(file, p, interleaved_rope=True)


def record_layers(
    file: _core.GGUFFile, p: Hyperparameters, *, interleaved_rope: bool
) -> _core.Program:
    """Record the layers that llama and its relatives share; biases come with the file."""
    r = Recorder(file, [_core.KVLayer(p.n_kv_heads, p.head_dim)] * p.n_layers)
    rope = r.rope_table(
        p.head_dim,
        p.rope_base,
        interleaved=interleaved_rope,
        linear_scale=p.rope_linear_scale,
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
        x = r.add(x, r.swiglu(h, block))
    return r.finish(x, "output_norm", p.rms_eps)
