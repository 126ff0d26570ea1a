"""Cost on paper of the Metal kernels around attention and linear layers, and a layer's dispatches:
writes ``docs/reports/metal-row-costs.md``.

Sizes come from ``shaders/params.h``, as in ``metal_costs.py``. A kernel's **minimum** is each byte
of its inputs and outputs once; **moved** counts what its threads ask for.

    python benchmarks/metal_row_costs.py [--check]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from metal_costs import CHIPS, header_values, table

REPORT = Path(__file__).parents[1] / "docs" / "reports" / "metal-row-costs.md"
FLOAT = 4
KEY = 8  # a logit and its id, of top-k
EXPRESSIONS = ["kEmbeddingElements", "kSamplingThreads", "kTopKChunk", "kTopKMax"]


@dataclass(frozen=True)
class Row:
    """One dispatch: bytes, operations on floats or keys, threadgroup memory in bytes."""

    kernel: str
    shape: str
    minimum: int
    moved: int
    operations: int
    memory: int = 0

    def line(self) -> str:
        times = " | ".join(f"{self.moved / chip.bandwidth / 1e3:.1f}" for chip in CHIPS)
        return (
            f"| {self.kernel} | {self.shape} | {self.minimum / 1e3:,.1f} | {self.moved / 1e3:,.1f} "
            f"| {self.moved / self.minimum:.2f} | {self.operations / self.moved:.2f} "
            f"| {self.memory:,} | {times} |"
        )


def norms(rows: int, n: int) -> list[Row]:
    """A row is read for its sum and once more for its result, then from a cache."""
    x, weight, partial = rows * n * FLOAT, n * FLOAT, 32 * FLOAT
    shape = f"{rows} x {n:,}"
    return [
        Row("rms_norm", shape, 2 * x + weight, 3 * x + rows * weight, 4 * rows * n, partial),
        Row("add_rms_norm", shape, 4 * x + weight, 5 * x + rows * weight, 6 * rows * n, partial),
    ]


def elementwise(rows: int, n: int) -> list[Row]:
    x, shape = rows * n * FLOAT, f"{rows} x {n:,}"
    return [
        Row("silu_mul, gelu_mul", shape, 3 * x, 3 * x, 10 * rows * n),
        Row("scale, softcap", shape, 2 * x, 2 * x, rows * n),
        Row("add", shape, 3 * x, 3 * x, 2 * rows * n),
        Row("select_rows", shape, 2 * x + 4 * rows, 2 * x + 4 * rows * n // 4, 0),
    ]


def rope(rows: int, n_heads: int, head_dim: int) -> Row:
    """Every head of a token asks for the token's angles."""
    x, angles = rows * n_heads * head_dim * FLOAT, rows * head_dim * FLOAT
    return Row(
        "rope",
        f"{rows} x {n_heads} x {head_dim}",
        2 * x + angles,
        2 * x + n_heads * angles,
        3 * rows * n_heads * head_dim,
    )


def embedding(rows: int, n: int, row_bytes: int, name: str, values: Mapping[str, int]) -> Row:
    out, ids = rows * n * FLOAT, rows * 4
    return Row(
        f"embedding, {name}",
        f"{rows} x {n:,}",
        rows * row_bytes + out + ids,
        rows * row_bytes + out + ids * (n // values["kEmbeddingElements"]),
        2 * rows * n,
    )


def sampling(rows: int, vocab: int, k: int, values: Mapping[str, int]) -> list[Row]:
    chunk, logits = values["kTopKChunk"], rows * vocab * FLOAT
    n_chunks = -(-vocab // chunk)
    stages = sum(range(1, chunk.bit_length()))  # of Batcher's network
    candidates = rows * n_chunks * k * KEY
    passes = -(-n_chunks * k // (chunk - k))
    return [
        Row(
            "argmax",
            f"{rows} x {vocab:,}",
            logits + 4 * rows,
            logits + 4 * rows,
            rows * vocab,
            values["kSamplingThreads"] // 32 * KEY,
        ),
        Row(
            f"top_k_chunks and _merge, k = {k}",
            f"{rows} x {vocab:,}",
            logits + rows * k * 8,
            logits + 2 * candidates + rows * k * 8,
            rows * (n_chunks + passes) * stages * chunk // 2,
            chunk * KEY,
        ),
    ]


def rows(values: Mapping[str, int]) -> list[Row]:
    """A decoded token and a prompt of 512 with a width of 4,096; real vocabularies."""
    all_rows: list[Row] = []
    for n_tokens in (1, 512):
        all_rows.append(embedding(n_tokens, 4096, 4096 // 256 * 144, "Q4_K", values))
        all_rows += norms(n_tokens, 4096)
        all_rows.append(rope(n_tokens, 32, 128))
        all_rows += elementwise(n_tokens, 14336)
    for vocab in (49152, 262144):
        all_rows += sampling(1, vocab, 40, values)
    return all_rows


@dataclass(frozen=True)
class Stage:
    """Dispatches of a decoded token's layer between two barriers."""

    before: str  # without fusion; empty: nothing
    after: str

    @staticmethod
    def count(text: str) -> int:
        return len(text.split(", ")) if text else 0


# llama's layer as cpp/metal/fusion.cpp cuts it; attention reads one partition.
LAYER = (
    Stage("rms_norm", "rms_norm"),
    Stage("linear q, linear k, linear v", "linear q, linear k, linear v"),
    Stage("rope q, rope k", "rope q, rope k"),
    Stage("kv_write", "kv_write"),
    Stage("attention_decode", "attention_decode"),
    Stage("linear o", "linear o with residual"),
    Stage("add", ""),
    Stage("rms_norm", "rms_norm"),
    Stage("linear gate, linear up", "linear_gated"),
    Stage("silu_mul", ""),
    Stage("linear down", "linear down with residual"),
    Stage("add", ""),
)


def layer_table() -> str:
    lines = [f"| {s.before} | {s.after or '(in the one before)'} |" for s in LAYER]
    n_before, n_after = (
        sum(Stage.count(getattr(s, x)) for s in LAYER) for x in ("before", "after")
    )
    b_before, b_after = (sum(bool(getattr(s, x)) for s in LAYER) for x in ("before", "after"))
    lines.append(f"| **{n_before} dispatches, {b_before} barriers** | **{n_after}, {b_after}** |")
    return table("| op by op | as the device runs it |", lines)


def report() -> str:
    """The whole page."""
    values = header_values(EXPRESSIONS)
    chips = " | ".join(f"{chip.name}, us" for chip in CHIPS)
    return f"""# Metal row kernels: cost on paper

Generated by `benchmarks/metal_row_costs.py` from the sizes in `shaders/params.h`; do not edit.
**Nothing here was measured on an Apple GPU.** What a kernel asks for beyond the minimum is served
by caches: a row's second reading, a norm's weight, a token's angles. Times are *moved* at the
chip's full memory bandwidth (sources: metal-costs.md), a bound from below that starting a dispatch
exceeds for single tokens. No kernel here keeps more than a few values per thread, so registers
limit no occupancy; threadgroup memory does for top-k alone, {
        60 * 1024 // (values["kTopKChunk"] * KEY)
    }
threadgroups on a core of M1 or M2.

{
        table(
            "| kernel | rows x width | minimum KB | moved KB | moved / minimum "
            f"| operations per byte | threadgroup memory | {chips} |",
            (row.line() for row in rows(values)),
        )
    }

## Dispatches of a layer

One layer of llama for a decoded token; a line is what runs between two barriers. A test
counts them.

{layer_table()}

Not fused: a norm into the linear layers behind it. It would save a dispatch and a barrier, but
every threadgroup would sum the row's squares and read the norm's weight again: for SmolLM2's q, k
and v
{60 * 576 * FLOAT / 1e3:,.0f} KB from caches beside {960 * 576 // 32 * 20 / 1e3:,.0f} KB of weights,
for a saving that cannot be measured here.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the report is out of date")
    if parser.parse_args().check:
        sys.exit(REPORT.read_text() != report())
    REPORT.write_text(report())


if __name__ == "__main__":
    main()
