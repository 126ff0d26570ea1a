"""Reading an architecture's keys from a model file, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from longbow_quarrel import _core
from longbow_quarrel.errors import ModelFormatError


class Metadata:
    """The keys of one architecture: ``number("block_count")`` reads ``llama.block_count``."""

    def __init__(self, file: _core.GGUFFile) -> None:
        self._file = file
        architecture = file.get("general.architecture")
        if not isinstance(architecture, str):
            raise ModelFormatError(
                f"{file.path}: general.architecture is missing; the file holds no model."
            )
        self.architecture = architecture

    def _get(self, key: str) -> tuple[str, Any]:
        name = f"{self.architecture}.{key}"
        return name, self._file.get(name)

    def _fail(self, name: str, expected: str, value: object) -> ModelFormatError:
        return ModelFormatError(f"{self._file.path}: {name} must be {expected}, got {value!r}.")

    def integer(self, key: str, default: int | None = None, *, low: int = 1) -> int:
        """A whole number of at least ``low``; without a default the key must be there."""
        name, value = self._get(key)
        if value is None:
            value = default
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise self._fail(name, f"a whole number of at least {low}", value)
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number; without a default the key must be there."""
        name, value = self._get(key)
        if value is None:
            value = default
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise self._fail(name, "a number", value)
        return float(value)

    def text(self, key: str, default: str) -> str:
        name, value = self._get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self._fail(name, "text", value)
        return value

    def raw(self, key: str) -> Any:
        """The value as the file has it, or None."""
        return self._get(key)[1]


@dataclass(frozen=True)
class Hyperparameters:
    """The sizes that every supported architecture has.

    Attributes:
        n_embd: width of the residual stream.
        head_dim: elements of a query, key or value head.
        context_length: tokens the model was trained on.
        rope_linear_scale: positions are divided by it (Chen et al., "Extending Context Window of
            Large Language Models via Positional Interpolation", 2023).
    """

    architecture: str
    n_layers: int
    n_embd: int
    n_ff: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    rms_eps: float
    context_length: int
    vocab_size: int
    rope_base: float
    rope_linear_scale: float


def read_hyperparameters(file: _core.GGUFFile) -> Hyperparameters:
    """Read and check what all architectures share.

    Raises:
        ModelFormatError: a key is missing or out of range, or asks for something unsupported.
    """
    m = Metadata(file)
    n_embd = m.integer("embedding_length")
    n_heads = m.integer("attention.head_count")
    n_kv_heads = m.integer("attention.head_count_kv", n_heads)
    head_dim = m.integer("attention.key_length", max(n_embd // n_heads, 1))
    if m.integer("attention.value_length", head_dim) != head_dim:
        raise _unsupported(file, "key and value heads of different sizes")
    if n_heads % n_kv_heads:
        raise _unsupported(file, f"{n_heads} query heads over {n_kv_heads} KV heads")
    if m.integer("rope.dimension_count", head_dim) != head_dim:
        raise _unsupported(file, "a rotary embedding of part of a head")
    if m.integer("expert_count", 0, low=0) > 0:
        raise _unsupported(file, "mixture of experts")
    return Hyperparameters(
        architecture=m.architecture,
        n_layers=m.integer("block_count"),
        n_embd=n_embd,
        n_ff=m.integer("feed_forward_length"),
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        rms_eps=m.number("attention.layer_norm_rms_epsilon"),
        context_length=m.integer("context_length"),
        vocab_size=_vocab_size(file),
        rope_base=m.number("rope.freq_base", 10000.0),
        rope_linear_scale=_linear_scale(file, m),
    )


def _unsupported(file: _core.GGUFFile, what: str) -> ModelFormatError:
    return ModelFormatError(f"{file.path}: {what} is not supported; use another model file.")


def _linear_scale(file: _core.GGUFFile, m: Metadata) -> float:
    kind = m.text("rope.scaling.type", "linear")
    if kind not in ("none", "linear"):
        raise _unsupported(file, f"rope scaling of type {kind!r}")
    factor = m.number("rope.scaling.factor", m.number("rope.scale_linear", 0.0))
    return factor if kind == "linear" and factor > 0 else 1.0


def _vocab_size(file: _core.GGUFFile) -> int:
    for tensor in file.tensors:
        if tensor.name == "token_embd.weight":
            return int(tensor.shape[1])
    raise ModelFormatError(f"{file.path}: tensor token_embd.weight is missing.")
