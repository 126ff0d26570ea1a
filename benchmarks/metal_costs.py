"""What the Metal kernels move and need, on paper: writes ``docs/reports/metal-costs.md``.

Sizes come from ``shaders/params.h`` and ``shaders/kv_layout.h`` themselves, which a small C++
program prints: the shaders, the host and this report cannot disagree. A kernel's **minimum** is
each byte of its inputs and outputs once; **moved** counts what its threadgroups ask for, a byte
once per threadgroup, as if no cache served two of them.

    python benchmarks/metal_costs.py [--check]
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "docs" / "reports" / "metal-costs.md"
KV_TYPES = {"f32": 0, "f16": 1, "bf16": 2, "q8_0": 3, "q4_0": 4}
TILE = 8  # tokens of which all are read where one is seen
METAL_LIMIT = 32 << 10  # bytes of threadgroup memory


def header_values(expressions: Iterable[str]) -> dict[str, int]:
    """Constant expressions over the shaders' headers, evaluated by the C++ compiler.

    Raises RuntimeError where there is no compiler or an expression is wrong.
    """
    unique = list(dict.fromkeys(expressions))
    compiler = next(filter(None, map(shutil.which, ("c++", "clang++", "clang++-19", "g++"))), None)
    if compiler is None:
        raise RuntimeError("[metal_costs] expected a C++ compiler: install one, such as g++")
    prints = "".join(f'std::printf("%llu\\n", (unsigned long long)({e}));' for e in unique)
    program = f'#include <cstdio>\n#include "kv_layout.h"\nint main() {{ {prints} }}\n'
    with tempfile.TemporaryDirectory() as folder:
        source, binary = Path(folder, "values.cpp"), Path(folder, "values")
        source.write_text(program)
        command = [compiler, "-std=c++20", f"-I{ROOT / 'shaders'}", str(source), "-o", str(binary)]
        built = subprocess.run(command, capture_output=True, text=True, check=False)
        if built.returncode != 0:
            raise RuntimeError(f"[metal_costs] {built.stderr}")
        output = subprocess.run([str(binary)], capture_output=True, text=True, check=True).stdout
    return dict(zip(unique, map(int, output.split()), strict=True))


@dataclass(frozen=True)
class Attention:
    """One layer's attention; every sequence of the batch has n_tokens in the cache."""

    n_heads: int = 32
    n_kv_heads: int = 8
    head_dim: int = 128
    k_type: str = "f16"
    v_type: str = "f16"
    n_tokens: int = 4096
    batch: int = 1
    window: int = 0
    sinks: int = 0
    chunk: int = 1  # tokens computed per sequence: 1 is a decode step
    partition: int | None = None  # None: as attention_partition() chooses

    @property
    def group(self) -> int:
        """Query heads per threadgroup; beyond eight they are split evenly, and K and V reread."""
        ratio = self.n_heads // self.n_kv_heads
        return -(-ratio // self.n_splits)

    @property
    def n_splits(self) -> int:
        return -(-(self.n_heads // self.n_kv_heads) // 8)

    # Expressions over the headers.
    @property
    def row_bytes(self) -> str:
        k, v = KV_TYPES[self.k_type], KV_TYPES[self.v_type]
        return f"kv_row_bytes({k}, {self.head_dim}) + kv_row_bytes({v}, {self.head_dim})"

    @property
    def partition_tokens(self) -> str:
        if self.partition is not None:
            return str(self.partition)
        k, v = KV_TYPES[self.k_type], KV_TYPES[self.v_type]
        return f"attention_partition({k}, {v}, {self.head_dim}, {self.group})"

    @property
    def slots(self) -> str:
        last = self.n_tokens - 1
        return f"attention_slots({last}, {self.window}, {self.sinks}, {self.partition_tokens})"

    @property
    def decode_memory(self) -> str:
        """Threadgroup memory: the argument, and each simdgroup's largest scores or sums."""
        k, v, partition = KV_TYPES[self.k_type], KV_TYPES[self.v_type], self.partition_tokens
        round_ = f"attention_round({k}, {v}, {self.group}, {partition})"
        sizes = f"{self.head_dim}, {self.group}, {partition}, {round_}"
        has_scales = f"kv_has_scales({k}), kv_has_scales({v})"
        argument = f"attention_decode_memory({sizes}, {has_scales})"
        return f"{argument} + kAttentionSimdgroups * kAttentionMaxGroup * 4"

    def expressions(self) -> list[str]:
        return [self.row_bytes, self.partition_tokens, self.slots, self.decode_memory]


@dataclass(frozen=True)
class Cost:
    """Bytes of a dispatch (or of two that belong together), and multiply-adds times two."""

    minimum: int
    moved: int
    kv_and_query: int
    operations: int
    n_threadgroups: int

    @property
    def ratio(self) -> float:
        return self.moved / self.minimum


def visible_tokens(position: int, window: int, sinks: int) -> int:
    """Keys that a query sees."""
    begin = max(0, position + 1 - window) if window else 0
    return position + 1 - begin + min(sinks, begin)


def tokens_of_tiles(position: int, window: int, sinks: int) -> int:
    """Keys that are read for it: all of a tile of which one is seen."""
    begin = max(0, position + 1 - window) if window else 0
    pinned = -(-min(sinks, begin) // TILE)
    first = begin // TILE
    return (min(pinned, first) + position // TILE + 1 - first) * TILE


def decode_cost(case: Attention, values: Mapping[str, int]) -> Cost:
    """attention_decode and, where there are several partitions, attention_decode_reduce."""
    row, n_slots = values[case.row_bytes], values[case.slots]
    position = case.n_tokens - 1
    seen = visible_tokens(position, case.window, case.sinks) * case.n_kv_heads * row
    read = tokens_of_tiles(position, case.window, case.sinks) * case.n_kv_heads * row
    query = case.n_heads * case.head_dim * 4
    partials = case.n_heads * n_slots * (case.head_dim * 4 + 8) if n_slots > 1 else 0
    threadgroups = n_slots * case.n_kv_heads * case.n_splits
    # Two block tables' entries (K and V) per tile at most, an item and a position.
    indices = 2 * 4 * case.n_splits * case.n_kv_heads * (read // (row * case.n_kv_heads) // TILE)
    indices += threadgroups * (16 + 4)
    moved = read * case.n_splits + query * n_slots + 2 * partials + query + indices
    operations = (
        4 * case.head_dim * case.n_heads * visible_tokens(position, case.window, case.sinks)
    )
    return Cost(
        case.batch * (seen + 2 * query),
        case.batch * moved,
        case.batch * (seen + query),
        case.batch * operations,
        case.batch * threadgroups,
    )


def prefill_cost(case: Attention, values: Mapping[str, int]) -> Cost:
    """attention_prefill over the last `chunk` tokens of each sequence, without a window."""
    row, rows = values[case.row_bytes], values["kPrefillRows"] // case.group
    start = case.n_tokens - case.chunk
    query = case.chunk * case.n_heads * case.head_dim * 4
    lasts = [min(t + rows, case.n_tokens) - 1 for t in range(start, case.n_tokens, rows)]
    read = sum((last // TILE + 1) * TILE for last in lasts) * case.n_kv_heads * case.n_splits * row
    keys = sum(range(start + 1, case.n_tokens + 1))
    minimum = case.n_tokens * case.n_kv_heads * row + 2 * query
    return Cost(
        case.batch * minimum,
        case.batch * (read + 2 * query),
        case.batch * (minimum - query),
        case.batch * 4 * case.head_dim * case.n_heads * keys,
        case.batch * len(lasts) * case.n_kv_heads * case.n_splits,
    )


def kv_write_cost(case: Attention, values: Mapping[str, int]) -> Cost:
    """kv_write of `chunk` tokens per sequence: float rows in, rows of the cache out."""
    rows = case.batch * case.chunk * case.n_kv_heads
    moved = rows * (2 * case.head_dim * 4 + values[case.row_bytes]) + case.batch * case.chunk * 4
    return Cost(moved, moved, 0, 0, 0)


@dataclass(frozen=True)
class Chip:
    """Public figures of a GPU; bandwidth in 10^9 bytes per second."""

    name: str
    n_cores: int
    bandwidth: float


CHIPS = (
    Chip("M1", 8, 68.25),
    Chip("M2", 10, 100),
    Chip("M3", 10, 100),
    Chip("M4", 10, 120),
    Chip("M5", 10, 153),
    Chip("M4 Max", 40, 546),
)
# Of an M1 or M2 core (philipturner/metal-benchmarks).
REGISTER_FILE = 208 << 10
CORE_THREADGROUP_MEMORY = 60 << 10
MAX_REGISTERS = 128  # of 32 bits, per thread


def threadgroups_per_core(memory: int, registers: int, threads: int = 128) -> tuple[int, int]:
    """How many fit by threadgroup memory, and by registers."""
    return CORE_THREADGROUP_MEMORY // memory, REGISTER_FILE // (threads * registers * 4)


def decode_registers(group: int) -> int:
    """Registers that the values pass certainly keeps: sums, a tile of K or V, two weights, and
    about 24 for addresses and counters. Apple's compiler has not been asked."""
    return min(group * 8 + 32 + 8 + 24, MAX_REGISTERS)


def prefill_registers(head_dim: int, element_bytes: int) -> int:
    """Queries, sums and four products as matrices (two elements per lane), keys or values read
    ahead where matrices are small, row state, 24 more."""
    queries = head_dim // 8 * 2 * element_bytes // 4
    ahead = head_dim // 8 if head_dim * element_bytes <= 256 else 0
    return min(queries + head_dim // 8 * 2 + ahead + 8 + 8 + 24, MAX_REGISTERS)


DECODE_CASES = (
    Attention(n_tokens=4096, batch=1),
    Attention(n_tokens=32768, batch=1),
    Attention(n_tokens=4096, batch=16),
    Attention(n_tokens=32768, batch=64),
    Attention(n_tokens=32768, batch=64, k_type="q8_0", v_type="q8_0"),
    Attention(n_tokens=32768, batch=64, k_type="q4_0", v_type="q4_0"),
    Attention(n_tokens=32768, batch=64, k_type="q8_0", v_type="q4_0"),
    Attention(n_tokens=32768, batch=64, window=4096, sinks=4),
    Attention(n_tokens=8192, batch=16, n_heads=64, n_kv_heads=8, k_type="q4_0", v_type="q4_0"),
    Attention(n_tokens=8192, n_heads=9, n_kv_heads=3, head_dim=64),
    Attention(n_tokens=8192, n_heads=4, n_kv_heads=1, head_dim=256, window=512),
)
PREFILL_CASES = (
    Attention(n_tokens=4096, batch=8, chunk=4096),
    Attention(n_tokens=4096, batch=8, chunk=512),
    Attention(n_tokens=4096, batch=1, chunk=4096, k_type="q8_0", v_type="q8_0"),
)
WRITE_CASES = (
    Attention(chunk=1, batch=64),
    Attention(chunk=512, k_type="q8_0", v_type="q8_0"),
    Attention(chunk=512, k_type="q4_0", v_type="q4_0"),
)
SHAPES = ((64, 3), (64, 4), (80, 4), (96, 4), (128, 4), (128, 8), (256, 4))  # head_dim, group


def all_expressions() -> list[str]:
    """Everything that the report asks the headers for."""
    cases = [*DECODE_CASES, *PREFILL_CASES, *WRITE_CASES]
    expressions = [e for case in cases for e in case.expressions()] + ["kPrefillRows"]
    for head_dim, group in SHAPES:
        expressions += [Attention(n_heads=group, n_kv_heads=1, head_dim=head_dim).decode_memory]
        expressions += [f"attention_prefill_memory({head_dim}, {size})" for size in (2, 4)]
    return expressions


def table(head: str, rows: Iterable[str]) -> str:
    columns = head.count("|") - 1
    return "\n".join([head, "|" + "---|" * columns, *rows])


def shape_text(case: Attention) -> str:
    kinds = case.k_type if case.k_type == case.v_type else f"{case.k_type} / {case.v_type}"
    window = f", window {case.window} + {case.sinks}" if case.window else ""
    return f"{case.batch} x {case.n_tokens:,}{window} | {case.n_heads}:{case.n_kv_heads} x " + (
        f"{case.head_dim} | {kinds}"
    )


def decode_table(values: Mapping[str, int]) -> str:
    rows = []
    for case in DECODE_CASES:
        cost = decode_cost(case, values)
        rows.append(
            f"| {shape_text(case)} | {values[case.partition_tokens]} | {cost.n_threadgroups:,} | "
            f"{cost.minimum / 1e6:,.2f} | {cost.moved / 1e6:,.2f} | {cost.ratio:.3f} | "
            f"{cost.moved / cost.kv_and_query:.3f} | {cost.operations / cost.moved:.1f} |"
        )
    return table(
        "| batch x depth | heads | K / V | partition | threadgroups | minimum MB | moved MB "
        "| moved / minimum | moved / (K, V, q) | operations per byte |",
        rows,
    )


def time_table(values: Mapping[str, int]) -> str:
    rows = []
    for case in DECODE_CASES:
        cost = decode_cost(case, values)
        times = " | ".join(f"{cost.moved / chip.bandwidth / 1e3:,.0f}" for chip in CHIPS)
        rows.append(f"| {shape_text(case)} | {times} |")
    chips = " | ".join(f"{chip.name}" for chip in CHIPS)
    return table(f"| batch x depth | heads | K / V | {chips} |", rows)


def prefill_table(values: Mapping[str, int]) -> str:
    rows = []
    for case in PREFILL_CASES:
        cost = prefill_cost(case, values)
        rows.append(
            f"| {shape_text(case)} | {case.chunk} | {cost.n_threadgroups:,} | "
            f"{cost.minimum / 1e6:,.1f} | {cost.moved / 1e6:,.1f} | "
            f"{cost.operations / 1e9:,.1f} | {cost.operations / cost.moved:.0f} |"
        )
    return table(
        "| batch x depth | heads | K / V | chunk | threadgroups | minimum MB | moved MB "
        "| 10^9 operations | operations per byte moved |",
        rows,
    )


def write_table(values: Mapping[str, int]) -> str:
    rows = []
    for case in WRITE_CASES:
        cost = kv_write_cost(case, values)
        n = case.batch * case.chunk
        rows.append(f"| {n} | {case.k_type} | {cost.moved / n:,.0f} | {cost.ratio:.3f} |")
    return table("| tokens | K and V | bytes per token | moved / minimum |", rows)


def occupancy_table(values: Mapping[str, int]) -> str:
    rows = []
    for head_dim, group in SHAPES:
        case = Attention(n_heads=group, n_kv_heads=1, head_dim=head_dim)
        kernels = [("attention_decode", values[case.decode_memory], decode_registers(group))]
        for matrix, size in (("half", 2), ("float", 4)):
            memory = values[f"attention_prefill_memory({head_dim}, {size})"]
            name = f"attention_prefill, {matrix}"
            kernels.append((name, memory, prefill_registers(head_dim, size)))
        for name, memory, registers in kernels:
            by_memory, by_registers = threadgroups_per_core(memory, registers)
            rows.append(
                f"| {name} | {head_dim} | {group} | {memory:,} | {registers} | {by_memory} | "
                f"{by_registers} | {min(by_memory, by_registers) * 4} |"
            )
    return table(
        "| kernel | head size | heads per KV head | threadgroup memory | registers (estimate) "
        "| threadgroups by memory | by registers | simdgroups per core |",
        rows,
    )


def report() -> str:
    """The whole page."""
    values = header_values(all_expressions())
    return f"""# Metal kernels: cost on paper

Generated by `benchmarks/metal_costs.py` from the sizes in `shaders/params.h` and
`shaders/kv_layout.h`; do not edit. **Nothing here was measured on an Apple GPU.** Megabytes are
10^6 bytes.

## Decode attention

Per layer and step, `attention_decode` and `attention_decode_reduce` together. *Moved* counts every
byte that a threadgroup asks for: K, V and their scales in whole tiles of eight tokens, queries once
per partition, partial sums written and read, block tables, outputs. *Minimum* is K, V, queries and
outputs once. A test holds moved / (K, V, q) to 1.1 for all types and shapes from 4,096 tokens on,
and from 1,024 on where K and V have 16 bits or more.

{decode_table(values)}

Microseconds at the chip's full memory bandwidth, a bound from below:

{time_table(values)}

## Prefill attention

A threadgroup has {values["kPrefillRows"]} rows, pairs of a token and a query head; every
threadgroup of a KV head reads K and V again, mostly from the system level cache. Operations are the
causal ones (twice the multiply-adds of q k and of weights v); tiles on the diagonal compute up to
half more.

{prefill_table(values)}

## Cache write

{write_table(values)}

## Threadgroup memory and occupancy

All threadgroups have 128 threads. Metal allows {METAL_LIMIT:,} bytes of threadgroup memory.
The last three columns are for a core of M1 or M2: {REGISTER_FILE >> 10} KB of registers, at most
{MAX_REGISTERS} of 32 bits per thread, {CORE_THREADGROUP_MEMORY >> 10} KB of threadgroup memory.
From M3 on both share one memory that is handed out dynamically, whose size Apple does not publish;
there the columns are a guess at best. Registers are counted from what a kernel certainly keeps:
Apple's compiler has not been asked.

{occupancy_table(values)}

## Sources

- Memory bandwidth and GPU cores: Apple's technical specifications of the Macs that introduced the
  chips: {"; ".join(f"{c.name} {c.bandwidth:g} GB/s, {c.n_cores} cores" for c in CHIPS)}.
- Registers and threadgroup memory of a core: Philip Turner, *Metal Benchmarks*,
  <https://github.com/philipturner/metal-benchmarks>, measured on M1 and M2.
- Dynamic caching: Apple, *Explore GPU advancements in M3 and A17 Pro* (2023).
"""


def main() -> int:
    """Writes the report; with --check, fails where the one in the tree is out of date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    check = parser.parse_args().check
    text = report()
    if not check:
        REPORT.write_text(text)
    elif REPORT.read_text() != text:
        print(f"{REPORT} is out of date: run python benchmarks/metal_costs.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
