"""NumPy oracle of a whole forward pass: GGUF file and token ids in, logits out.

It reads the file with the ``gguf`` package, dequantises every weight exactly, and composes the ops
of ``reference.py`` in float64. It shares no code with the product, so that agreement
between the two means something. The architectures' facts were taken from llama.cpp and are
checked against llama.cpp's own logits in ``test_reference_model.py``.

Command line: ``python tests/reference_model.py MODEL.gguf 1,2,3`` prints the top tokens.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf.quants import dequantize

import reference as ops
from gguf import GGUFReader

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma3", "granite")
GEMMA3_27B_N_LAYERS = 62


@dataclass(frozen=True)
class LayerSpan:
    """What differs between a global and a local layer. ``window`` None = sees the whole context."""

    window: int | None
    rope_base: float
    rope_freq_scale: float


class ReferenceModel:
    """Weights and hyperparameters of one GGUF file. Weights are dequantised on first use."""

    def __init__(self, path: str | Path) -> None:
        reader = GGUFReader(path)
        self.metadata: dict[str, Any] = {
            key: field.contents()
            for key, field in reader.fields.items()
            if not key.startswith("tokenizer.")
        }
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        self._weights: dict[str, Float32] = {}
        self.architecture: str = self.metadata["general.architecture"]
        if self.architecture not in ARCHITECTURES:
            raise ValueError(f"[reference] no oracle for architecture {self.architecture!r}")
        self.n_layers: int = self._get("block_count")
        self.n_embd: int = self._get("embedding_length")
        self.n_heads: int = self._get("attention.head_count")
        self.n_kv_heads: int = self._get("attention.head_count_kv", self.n_heads)
        self.head_dim: int = self._get("attention.key_length", self.n_embd // self.n_heads)
        self.eps: float = self._get("attention.layer_norm_rms_epsilon")

    def logits(self, token_ids: Sequence[int], positions: Sequence[int] | None = None) -> Float32:
        """Logits of one sequence that starts at position 0.

        token_ids: [n_tokens]; positions: the m rows wanted (default all) -> [m, vocab_size] f32.
        """
        x: Float64 = ops.embedding(
            self.weight("token_embd.weight"), token_ids, self._embedding_scale()
        ).astype(np.float64)
        for layer in range(self.n_layers):
            x = ops.add(x, self._attention_block(layer, x), self._residual_scale())
            x = ops.add(x, self._ffn_block(layer, x), self._residual_scale())
        if positions is not None:
            x = ops.select_rows(x, positions)
        x = self._norm("output_norm", x)
        head = "output" if "output.weight" in self._tensors else "token_embd"
        return self._finish(self._linear(head, x)).astype(np.float32)

    def weight(self, name: str) -> Float32:
        """A dequantised tensor, rows first: a matrix is [n_out, n_in]."""
        if name not in self._weights:
            tensor = self._tensors[name]
            shape = tuple(int(n) for n in reversed(tensor.shape))
            values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            self._weights[name] = values.reshape(shape)
        return self._weights[name]

    def _get(self, key: str, default: Any = None) -> Any:
        return self.metadata.get(f"{self.architecture}.{key}", default)

    # --- blocks -------------------------------------------------------------------------------

    def _attention_block(self, layer: int, x: Float64) -> Float64:
        prefix = f"blk.{layer}."
        span = self._span(layer)
        h = self._norm(prefix + "attn_norm", x)
        q = self._heads(prefix + "attn_q", h, self.n_heads)
        k = self._heads(prefix + "attn_k", h, self.n_kv_heads)
        v = self._heads(prefix + "attn_v", h, self.n_kv_heads)
        if prefix + "attn_q_norm.weight" in self._tensors:
            q = self._norm(prefix + "attn_q_norm", q)
            k = self._norm(prefix + "attn_k_norm", k)
        q, k = self._rope(q, span), self._rope(k, span)
        out = ops.attention(q, k, v, scale=self._attention_scale(), window=span.window)
        out = self._linear(prefix + "attn_output", out.reshape(len(x), -1))
        if self.architecture == "gemma3":
            out = self._norm(prefix + "post_attention_norm", out)
        return out

    def _ffn_block(self, layer: int, x: Float64) -> Float64:
        prefix = f"blk.{layer}."
        h = self._norm(prefix + "ffn_norm", x)
        activate = ops.gelu_mul if self.architecture == "gemma3" else ops.silu_mul
        gated = activate(self._linear(prefix + "ffn_gate", h), self._linear(prefix + "ffn_up", h))
        out = self._linear(prefix + "ffn_down", gated)
        if self.architecture == "gemma3":
            out = self._norm(prefix + "post_ffw_norm", out)
        return out

    # --- ops with this model's weights ---------------------------------------------------------

    def _norm(self, name: str, x: Float64) -> Float64:
        return ops.rms_norm(x, self.weight(name + ".weight"), self.eps)

    def _linear(self, name: str, x: Float64) -> Float64:
        bias = self.weight(name + ".bias") if name + ".bias" in self._tensors else None
        return ops.linear(x, self.weight(name + ".weight"), bias)

    def _heads(self, name: str, h: Float64, n_heads: int) -> Float64:
        return self._linear(name, h).reshape(len(h), n_heads, self.head_dim)

    def _rope(self, x: Float64, span: LayerSpan) -> Float64:
        if self.architecture == "granite" and not self._get("rope.scaling.finetuned", True):
            return x  # granite files use this key as the switch for "no positions at all"
        factors = None
        if self.architecture in ("llama", "granite") and "rope_freqs.weight" in self._tensors:
            factors = self.weight("rope_freqs.weight")
        return ops.rope(
            x,
            np.arange(len(x)),
            interleaved=self.architecture in ("llama", "granite"),
            base=span.rope_base,
            freq_scale=span.rope_freq_scale,
            freq_factors=factors,
        )

    # --- hyperparameters that depend on the architecture ----------------------------------------

    def _span(self, layer: int) -> LayerSpan:
        window = self._get("attention.sliding_window", 0) or None
        base = self._get("rope.freq_base", 10000.0)
        freq_scale = self._rope_freq_scale()
        if self.architecture == "llama":
            return LayerSpan(window, base, freq_scale)
        if self.architecture == "gemma3" and window and self._is_local(layer):
            return LayerSpan(window, self._get("rope.freq_base_swa", 10000.0), 1.0)
        return LayerSpan(None, base, freq_scale)

    def _is_local(self, layer: int) -> bool:
        pattern = self._get("attention.sliding_window_pattern", 6)
        if isinstance(pattern, list):
            return bool(pattern[layer])
        return pattern == 0 or layer % pattern < pattern - 1

    def _rope_freq_scale(self) -> float:
        kind = self._get("rope.scaling.type", "linear")
        if kind == "none":
            return 1.0
        if kind != "linear":
            raise ValueError(f"[reference] no oracle for rope scaling {kind!r}")
        factor = self._get("rope.scaling.factor", self._get("rope.scale_linear", 0.0))
        return 1.0 / factor if factor else 1.0

    def _embedding_scale(self) -> float:
        if self.architecture == "gemma3":
            return math.sqrt(self.n_embd)
        if self.architecture == "granite":
            return self._get("embedding_scale", 0.0) or 1.0
        return 1.0

    def _residual_scale(self) -> float:
        if self.architecture == "granite":
            return self._get("residual_scale", 0.0) or 1.0
        return 1.0

    def _attention_scale(self) -> float:
        if self.architecture == "granite" and self._get("attention.scale", 0.0):
            return float(self._get("attention.scale"))
        if self.architecture == "gemma3" and self.n_layers == GEMMA3_27B_N_LAYERS:
            return 1.0 / math.sqrt(self.n_embd // self.n_heads)
        return 1.0 / math.sqrt(self.head_dim)

    def _finish(self, logits: Float64) -> Float64:
        if self.architecture == "granite":
            return logits / self._get("logit_scale")
        if self.architecture == "gemma3" and (cap := self._get("final_logit_softcapping", 0.0)):
            return ops.logit_softcap(logits, cap)
        return logits


def logits(gguf_path: str | Path, token_ids: Sequence[int]) -> Float32:
    """Logits of every position of one sequence: float32 [n_tokens, vocab_size]."""
    return ReferenceModel(gguf_path).logits(token_ids)


def main() -> None:
    path, ids = sys.argv[1], [int(token) for token in sys.argv[2].split(",")]
    last = ReferenceModel(path).logits(ids, positions=[len(ids) - 1])[0]
    for token in np.argsort(-last)[:10]:
        print(f"{token}\t{last[token]:.4f}")


if __name__ == "__main__":
    main()
