"""What the model files speak: the op vocabulary with tensors by name."""

from __future__ import annotations

from collections.abc import Sequence

from longbow_quarrel import _core


class Recorder:
    """A :class:`_core.ProgramBuilder` that looks tensors up in one model file.

    Values are matrices with one row per token; widths are checked by the builder, which raises
    ``UsageError`` with "[op] expected …, got …".
    """

    def __init__(self, file: _core.GGUFFile, kv_layers: Sequence[_core.KVLayer]) -> None:
        self._file = file
        self._builder = _core.ProgramBuilder(list(kv_layers))
        self._names = {tensor.name for tensor in file.tensors}
        self._weights: dict[str, _core.Weight] = {}

    def has(self, name: str) -> bool:
        return name in self._names

    def _weight(self, name: str) -> _core.Weight:
        if name not in self._weights:
            self._weights[name] = self._builder.weight(self._file, name)
        return self._weights[name]

    def embedding(self, *, scale: float = 1.0) -> _core.Value:
        """The step's tokens: [n_tokens, n_embd]."""
        return self._builder.embedding(self._weight("token_embd.weight"), scale)

    def rms_norm(self, x: _core.Value, name: str, eps: float) -> _core.Value:
        """Normalise every group of ``len(weight)`` elements: whole rows, or heads."""
        return self._builder.rms_norm(x, self._weight(f"{name}.weight"), eps)

    def linear(self, x: _core.Value, name: str) -> _core.Value:
        """Multiply by a matrix; its bias is added where the file has one."""
        bias = self._weight(f"{name}.bias") if self.has(f"{name}.bias") else None
        return self._builder.linear(x, self._weight(f"{name}.weight"), bias)

    def rope_table(
        self, head_dim: int, base: float, *, interleaved: bool, linear_scale: float = 1.0
    ) -> _core.RopeTable:
        """Rotary frequencies, divided by the factors in ``rope_freqs.weight`` if it is there."""
        factors = (
            self._file.dequantize("rope_freqs.weight").tolist()
            if self.has("rope_freqs.weight")
            else []
        )
        return self._builder.rope_table(head_dim, base, interleaved, linear_scale, factors)

    def rope(self, x: _core.Value, table: _core.RopeTable, head_dim: int) -> _core.Value:
        return self._builder.rope(x, table, head_dim)

    def attention(
        self,
        layer: int,
        q: _core.Value,
        k: _core.Value,
        v: _core.Value,
        *,
        n_heads: int,
        scale: float,
    ) -> _core.Value:
        """Write k and v to the cache, then attend from q to all that it may see."""
        self._builder.kv_write(layer, k, v)
        return self._builder.attention(layer, q, n_heads, scale)

    def swiglu(self, x: _core.Value, block: str) -> _core.Value:
        """The feed-forward of a block (Shazeer, "GLU Variants Improve Transformer", 2020)."""
        gate, up = self.linear(x, f"{block}.ffn_gate"), self.linear(x, f"{block}.ffn_up")
        return self.linear(self._builder.silu_mul(gate, up), f"{block}.ffn_down")

    def gelu_mul(self, gate: _core.Value, up: _core.Value) -> _core.Value:
        return self._builder.gelu_mul(gate, up)

    def add(self, a: _core.Value, b: _core.Value, *, scale: float = 1.0) -> _core.Value:
        """a + scale * b"""
        return self._builder.add(a, b, scale)

    def finish(
        self, x: _core.Value, norm: str, eps: float, *, scale: float = 1.0, softcap: float = 0.0
    ) -> _core.Program:
        """Logits of the rows that a step wants; the output matrix may be the embedding's.

        Logits are multiplied by ``scale``, then bounded to ``softcap`` unless that is 0.
        """
        x = self._builder.rms_norm(
            self._builder.select_rows(x), self._weight(f"{norm}.weight"), eps
        )
        output = "output" if self.has("output.weight") else "token_embd"
        logits = self.linear(x, output)
        if scale != 1.0:
            logits = self._builder.scale(logits, scale)
        if softcap != 0.0:
            logits = self._builder.softcap(logits, softcap)
        return self._builder.finish(logits)
