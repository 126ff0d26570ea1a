"""granite: llama with four scales, on embeddings, residuals, attention and logits."""

from __future__ import annotations

from longbow_quarrel import _core
from longbow_quarrel.errors import ModelFormatError
from longbow_quarrel.models.metadata import Hyperparameters, Metadata
from longbow_quarrel.models.recorder import Recorder


def record(file: _core.GGUFFile, p: Hyperparameters) -> _core.Program:
    """Record the forward pass (Granite Team, "Granite 3.0 Language Models", 2024)."""
    m = Metadata(file)
    if m.raw("rope.scaling.finetuned") is False:
        raise ModelFormatError(
            f"{file.path}: granite without rotary positions is not supported; use another model."
        )
    residual_scale = m.number("residual_scale", 0.0) or 1.0
    attention_scale = m.number("attention.scale", 0.0) or p.head_dim**-0.5
    r = Recorder(file, [_core.KVLayer(p.n_kv_heads, p.head_dim)] * p.n_layers)
    rope = r.rope_table(p.head_dim, p.rope_base, interleaved=True, linear_scale=p.rope_linear_scale)
    x = r.embedding(scale=m.number("embedding_scale", 0.0) or 1.0)
    for layer in range(p.n_layers):
        block = f"blk.{layer}"
        h = r.rms_norm(x, f"{block}.attn_norm", p.rms_eps)
        q = r.rope(r.linear(h, f"{block}.attn_q"), rope, p.head_dim)
        k = r.rope(r.linear(h, f"{block}.attn_k"), rope, p.head_dim)
        v = r.linear(h, f"{block}.attn_v")
        h = r.attention(layer, q, k, v, n_heads=p.n_heads, scale=attention_scale)
        x = r.add(x, r.linear(h, f"{block}.attn_output"), scale=residual_scale)

        h = r.rms_norm(x, f"{block}.ffn_norm", p.rms_eps)
        x = r.add(x, r.swiglu(h, block), scale=residual_scale)
    return r.finish(x, "output_norm", p.rms_eps, scale=1.0 / m.number("logit_scale"))
