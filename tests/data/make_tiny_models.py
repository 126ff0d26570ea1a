"""Writes the tiny random-weight GGUF models of tests/data/models, byte for byte reproducible.

usage: python tests/data/make_tiny_models.py [OUTPUT_DIRECTORY]     prints one sha256 per file

The models exist to exercise every rule of every architecture and every tensor type with files
small enough for the repository. Their weights are noise, scaled so that attention is far from
uniform (windows, rope and masks change the result) and logits are spread out (a wrong rule changes
the winning token). Numbers come from numpy's frozen RandomState stream and need no
transcendental function, so that any platform writes the same bytes.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tiny_vocab
from gguf.quants import quantize
from random_k_quants import K_QUANT_TYPES, random_k_quant

from gguf import GGMLQuantizationType as Type
from gguf import GGUFWriter

DEFAULT_DIRECTORY = Path(__file__).parent / "models"


@dataclass(frozen=True)
class TinyModel:
    """Shape, metadata and weight recipe of one file."""

    name: str
    architecture: str
    vocabulary: Callable[[GGUFWriter], int]
    seed: int
    n_layers: int = 2
    n_embd: int = 64
    n_heads: int = 4
    n_kv_heads: int = 2
    head_dim: int = 16
    n_ff: int = 96
    context_length: int = 256
    rope_base: float = 10000.0
    eps: float = 1e-5
    tied: bool = True
    qk_norm: bool = False
    qkv_bias: bool = False
    post_norm: bool = False
    rope_factors: tuple[float, ...] = ()
    # standard deviation of token_embd (and output); see _gain for the other matrices
    embedding_std: float = 0.3
    branch_gain: float = 1.0
    # metadata below "<architecture>."
    extra: dict[str, Any] = field(default_factory=dict)
    # stem of a matrix ("token_embd", "attn_q", ...) -> type, or one type per layer
    types: dict[str, Type | tuple[Type, ...]] = field(default_factory=dict)
    default_type: Type = Type.F16


MODELS = [
    TinyModel(
        name="llama3",
        architecture="llama",
        vocabulary=lambda w: tiny_vocab.add_bpe(w, "llama-bpe"),
        seed=1,
        rope_base=500000.0,
        rope_factors=(1.0, 1.0, 1.25, 2.5, 6.0, 8.0, 8.0, 8.0),
        types={"ffn_up": Type.Q8_0, "attn_v": Type.F32},
    ),
    TinyModel(
        name="mistral",  # sentencepiece, untied, head_dim != n_embd / n_heads, linear rope scaling
        architecture="llama",
        vocabulary=tiny_vocab.add_spm_llama,
        seed=2,
        head_dim=32,
        n_ff=64,
        tied=False,
        extra={"rope.scaling.type": "linear", "rope.scaling.factor": 2.0},
        types={
            "token_embd": Type.Q4_0,
            "output": Type.Q8_0,
            "ffn_gate": Type.Q5_1,
            "ffn_up": Type.Q5_0,
            "ffn_down": Type.Q4_1,
        },
        default_type=Type.BF16,
    ),
    TinyModel(
        name="qwen2",
        architecture="qwen2",
        vocabulary=lambda w: tiny_vocab.add_bpe(w, "qwen2"),
        seed=3,
        rope_base=1000000.0,
        eps=1e-6,
        qkv_bias=True,
        n_ff=128,
        default_type=Type.Q8_0,
    ),
    TinyModel(
        name="qwen3",
        architecture="qwen3",
        vocabulary=lambda w: tiny_vocab.add_bpe(w, "qwen2"),
        seed=4,
        n_layers=3,
        n_kv_heads=1,
        head_dim=32,
        rope_base=1000000.0,
        eps=1e-6,
        tied=False,
        qk_norm=True,
        types={
            "token_embd": Type.Q5_1,
            "output": Type.F16,
            "attn_q": (Type.Q4_0, Type.Q5_0, Type.F16),
            "attn_v": (Type.Q8_0, Type.BF16, Type.F32),
            "ffn_gate": (Type.Q4_1, Type.Q5_1, Type.Q8_0),
            "ffn_down": (Type.Q5_0, Type.Q4_0, Type.Q4_1),
        },
        default_type=Type.Q8_0,
    ),
    TinyModel(
        name="gemma3",
        architecture="gemma3",
        vocabulary=tiny_vocab.add_spm_gemma,
        seed=5,
        n_layers=7,
        n_embd=32,
        n_heads=2,
        n_kv_heads=1,
        head_dim=32,
        n_ff=64,
        rope_base=1000000.0,
        eps=1e-6,
        qk_norm=True,
        post_norm=True,
        embedding_std=0.45,
        extra={"attention.sliding_window": 16},
        types={"attn_v": Type.F16, "token_embd": Type.F16},
        default_type=Type.Q8_0,
    ),
    TinyModel(
        name="gemma3-scaled",  # as Gemma 3 4B and up: scaled global rope; plus the rarer keys
        architecture="gemma3",
        vocabulary=tiny_vocab.add_spm_gemma,
        seed=6,
        n_layers=6,
        n_embd=32,
        n_heads=4,
        n_kv_heads=2,
        head_dim=32,
        n_ff=64,
        rope_base=100000.0,
        eps=1e-6,
        tied=False,
        qk_norm=True,
        post_norm=True,
        embedding_std=0.45,
        extra={
            "attention.sliding_window": 8,
            "attention.sliding_window_pattern": 3,
            "rope.freq_base_swa": 5000.0,
            "rope.scaling.type": "linear",
            "rope.scaling.factor": 8.0,
            "final_logit_softcapping": 10.0,
        },
        types={"ffn_down": Type.Q5_1, "attn_k": Type.Q8_0, "output": Type.BF16},
        default_type=Type.Q4_0,
    ),
    TinyModel(
        name="granite",
        architecture="granite",
        vocabulary=lambda w: tiny_vocab.add_bpe(w, "refact"),
        seed=7,
        embedding_std=0.6,
        branch_gain=12.0,
        extra={
            "embedding_scale": 4.0,
            "residual_scale": 0.5,
            "attention.scale": 0.125,
            "logit_scale": 2.0,
        },
        types={"ffn_gate": Type.Q8_0, "ffn_up": Type.BF16},
    ),
    TinyModel(
        name="k-quants",
        architecture="llama",
        vocabulary=lambda w: tiny_vocab.add_bpe(w, "smollm"),
        seed=8,
        n_layers=1,
        n_embd=256,
        n_heads=4,
        n_kv_heads=2,
        head_dim=32,
        n_ff=256,
        embedding_std=0.15,
        types={
            "token_embd": Type.Q6_K,
            "attn_q": Type.Q2_K,
            "attn_k": Type.Q3_K,
            "attn_v": Type.Q6_K,
            "attn_output": Type.Q4_1,
            "ffn_gate": Type.Q4_K,
            "ffn_up": Type.Q5_K,
            "ffn_down": Type.Q3_K,
        },
    ),
]


def write_model(model: TinyModel, path: Path) -> None:
    writer = GGUFWriter(path, model.architecture)
    _add_metadata(writer, model)
    vocab_size = model.vocabulary(writer)
    random = np.random.RandomState(model.seed)
    _add_global_tensors(writer, model, vocab_size, random)
    for layer in range(model.n_layers):
        _add_layer_tensors(writer, model, layer, random)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_metadata(writer: GGUFWriter, model: TinyModel) -> None:
    writer.add_name(f"tiny random {model.name}")
    writer.add_context_length(model.context_length)
    writer.add_embedding_length(model.n_embd)
    writer.add_block_count(model.n_layers)
    writer.add_feed_forward_length(model.n_ff)
    writer.add_head_count(model.n_heads)
    writer.add_head_count_kv(model.n_kv_heads)
    writer.add_key_length(model.head_dim)
    writer.add_value_length(model.head_dim)
    writer.add_rope_dimension_count(model.head_dim)
    writer.add_rope_freq_base(model.rope_base)
    writer.add_layer_norm_rms_eps(model.eps)
    for key, value in model.extra.items():
        name = f"{model.architecture}.{key}"
        if isinstance(value, str):
            writer.add_string(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        else:
            writer.add_uint32(name, value)


def _add_global_tensors(
    writer: GGUFWriter, model: TinyModel, vocab_size: int, random: np.random.RandomState
) -> None:
    shape = (vocab_size, model.n_embd)
    _add_matrix(writer, model, "token_embd", shape, model.embedding_std, random)
    if not model.tied:
        _add_matrix(writer, model, "output", shape, model.embedding_std, random)
    _add_vector(writer, "output_norm.weight", model.n_embd, 0.7, 1.3, random)
    if model.rope_factors:
        writer.add_tensor("rope_freqs.weight", np.array(model.rope_factors, dtype=np.float32))


def _add_layer_tensors(
    writer: GGUFWriter, model: TinyModel, layer: int, random: np.random.RandomState
) -> None:
    n_q, n_kv = model.n_heads * model.head_dim, model.n_kv_heads * model.head_dim
    matrices = {
        "attn_q": (n_q, model.n_embd),
        "attn_k": (n_kv, model.n_embd),
        "attn_v": (n_kv, model.n_embd),
        "attn_output": (model.n_embd, n_q),
        "ffn_gate": (model.n_ff, model.n_embd),
        "ffn_up": (model.n_ff, model.n_embd),
        "ffn_down": (model.n_embd, model.n_ff),
    }
    for stem, shape in matrices.items():
        std = _gain(model, stem) / shape[1] ** 0.5
        _add_matrix(writer, model, stem, shape, std, random, layer)
    prefix = f"blk.{layer}."
    for stem in ("attn_norm", "ffn_norm"):
        _add_vector(writer, f"{prefix}{stem}.weight", model.n_embd, 0.7, 1.3, random)
    if model.qkv_bias:
        for stem, size in (("attn_q", n_q), ("attn_k", n_kv), ("attn_v", n_kv)):
            _add_vector(writer, f"{prefix}{stem}.bias", size, -1.0, 1.0, random)
    if model.qk_norm:
        for stem in ("attn_q_norm", "attn_k_norm"):
            _add_vector(writer, f"{prefix}{stem}.weight", model.head_dim, 0.8, 1.8, random)
    if model.post_norm:
        for stem in ("post_attention_norm", "post_ffw_norm"):
            _add_vector(writer, f"{prefix}{stem}.weight", model.n_embd, 1.5, 3.0, random)


def _gain(model: TinyModel, stem: str) -> float:
    """Output over input root mean square: sharp attention, residual branches that matter."""
    if stem in ("attn_q", "attn_k", "ffn_gate"):
        return 1.6
    return model.branch_gain if stem in ("attn_output", "ffn_down") else 1.0


def _add_matrix(
    writer: GGUFWriter,
    model: TinyModel,
    stem: str,
    shape: tuple[int, int],
    std: float,
    random: np.random.RandomState,
    layer: int | None = None,
) -> None:
    name = f"{stem}.weight" if layer is None else f"blk.{layer}.{stem}.weight"
    chosen = model.types.get(stem, model.default_type)
    dtype = chosen[layer or 0] if isinstance(chosen, tuple) else chosen
    if dtype in K_QUANT_TYPES:  # the gguf package reads but does not write these
        writer.add_tensor(name, random_k_quant(dtype, shape, std, random), raw_dtype=dtype)
        return
    values = _uniform(shape, -std * 3**0.5, std * 3**0.5, random)
    if dtype in (Type.F32, Type.F16):
        writer.add_tensor(name, values.astype(np.float16) if dtype == Type.F16 else values)
    else:
        writer.add_tensor(name, quantize(values, dtype), raw_dtype=dtype)


def _add_vector(
    writer: GGUFWriter,
    name: str,
    size: int,
    low: float,
    high: float,
    random: np.random.RandomState,
) -> None:
    writer.add_tensor(name, _uniform((size,), low, high, random))


def _uniform(
    shape: tuple[int, ...], low: float, high: float, random: np.random.RandomState
) -> np.ndarray:
    return (low + (high - low) * random.random_sample(shape)).astype(np.float32)


def main() -> None:
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_DIRECTORY
    directory.mkdir(parents=True, exist_ok=True)
    for model in MODELS:
        path = directory / f"{model.name}.gguf"
        write_model(model, path)
        data = path.read_bytes()
        print(f"{hashlib.sha256(data).hexdigest()}  {path.name}  {len(data)} bytes")


if __name__ == "__main__":
    main()
