"""A comparison as a page in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from longbow_quarrel.benchmarking.comparison import Comparison
from longbow_quarrel.benchmarking.quality import BASE, QualityRow
from longbow_quarrel.benchmarking.reuse import ReuseRow
from longbow_quarrel.benchmarking.speed import SpeedRow
from longbow_quarrel.benchmarking.summary import Summary
from longbow_quarrel.benchmarking.tables import markdown_table

_MIB = 2**20


def markdown(found: Comparison, plots: Sequence[str] = (), command: str = "") -> str:
    """The report; ``plots`` are paths of pictures, relative to it."""
    parts = ["# Cache strategies compared", *_preamble(found, command)]
    if found.speed:
        parts += ["## Speed", *_speed(found.speed), "## Latency", *_latency(found.speed)]
        parts += ["## Memory", *_memory(found.speed)]
    if found.quality:
        parts += ["## Quality by depth", *_quality(found.quality)]
    if found.reuse:
        parts += ["## Reuse under a tight budget", *_reuse(found.reuse)]
    if plots:
        parts += ["## Plots", "\n".join(f"![{_title(p)}]({p})" for p in plots)]
    return "\n\n".join(parts) + "\n"


def tables(found: Comparison) -> str:
    """Only the tables, for a terminal."""
    parts = []
    if found.speed:
        parts += [_table(_SPEED_HEAD, (_speed_cells(r, found.speed) for r in found.speed))]
        parts += [_table(_LATENCY_HEAD, map(_latency_cells, found.speed))]
        parts += [_table(_MEMORY_HEAD, map(_memory_cells, found.speed))]
    if found.quality:
        parts += [_table(_QUALITY_HEAD, map(_quality_cells, found.quality))]
    if found.reuse:
        parts += [_table(_REUSE_HEAD, map(_reuse_cells, found.reuse))]
    return "\n\n".join(parts) + "\n"


def _preamble(found: Comparison, command: str) -> list[str]:
    lines = [
        f"{found.model}, {found.date}. {found.machine.sentence()}. All threads together read "
        f"{found.bandwidth / 1e9:.1f} GB/s from memory, the best seen in the run, which took "
        f"{found.seconds / 60:.1f} minutes."
    ]
    return [*lines, f"    {command}"] if command else lines


_SPEED_HEAD = (
    *("contender", "length", "batch", "output t/s", "decode t/s", "MB/token", "of limit"),
    *("relative", "hash"),
)


def _speed(rows: Sequence[SpeedRow]) -> list[str]:
    return [
        "`batch` requests with prompts of `length` random tokens arrive together and are answered "
        "greedily. Output: generated tokens per second, prefill included. Decode: those of steps "
        "in which every text decoded, - where there was none; MB/token is what each token has to "
        "read from memory, and the limit what the bandwidth allows. Relative: decode rate over the "
        "first contender's. The hash is that of the generated tokens.",
        _table(_SPEED_HEAD, (_speed_cells(row, rows) for row in rows)),
    ]


def _speed_cells(row: SpeedRow, rows: Sequence[SpeedRow]) -> tuple[str, ...]:
    cell = (row.length, row.batch)
    first = next(r for r in rows if (r.length, r.batch) == cell)
    has_rate = row.decode_rate > 0 and first.decode_rate > 0
    return (
        row.contender,
        str(row.length),
        str(row.batch),
        f"{row.output_rate:.1f}",
        f"{row.decode_rate:.1f}" if row.decode_rate else "-",
        f"{row.bytes_per_token / 1e6:.1f}",
        f"{row.share_of_limit:.0%}" if row.decode_rate else "-",
        f"{row.decode_rate / first.decode_rate:.2f}" if has_rate else "-",
        row.token_hash,
    )


_LATENCY_HEAD = ("contender", "length", "batch", "requests", "TTFT", "ITL", "TPOT", "E2E")


def _latency(rows: Sequence[SpeedRow]) -> list[str]:
    return [
        "Milliseconds: mean / p50 / p90 / p99. TTFT: arrival to first token. ITL: between two "
        "tokens of a text. TPOT: mean ITL of a text. E2E: arrival to last token.",
        _table(_LATENCY_HEAD, map(_latency_cells, rows)),
    ]


def _latency_cells(row: SpeedRow) -> tuple[str, ...]:
    latencies = (row.ttft, row.itl, row.tpot, row.e2e)
    facts = (row.contender, str(row.length), str(row.batch), str(row.n_requests))
    return (*facts, *map(_milliseconds, latencies))


def _milliseconds(s: Summary) -> str:
    return " / ".join(f"{1000 * v:.3g}" for v in (s.mean, s.p50, s.p90, s.p99))


_MEMORY_HEAD = (
    *("contender", "length", "batch", "KV bytes/token", "KV room", "KV used, peak"),
    *("device, peak", "resident, peak", "preemptions", "let go"),
)


def _memory(rows: Sequence[SpeedRow]) -> list[str]:
    return [
        "MiB. Room: `quarrel_kv_cache_capacity_bytes`; used: highest "
        "`quarrel_kv_cache_used_bytes`; device: highest `quarrel_device_memory_allocated_bytes`; "
        "resident: of the process, with interpreter and weights. Let go: blocks outside a window "
        "(`quarrel_kv_cache_evictions_total`).",
        _table(_MEMORY_HEAD, map(_memory_cells, rows)),
    ]


def _memory_cells(row: SpeedRow) -> tuple[str, ...]:
    sizes = (
        *(row.kv_capacity_bytes, row.kv_used_bytes),
        *(row.peak_device_bytes, row.peak_resident_bytes),
    )
    return (
        *(row.contender, str(row.length), str(row.batch), str(row.kv_bytes_per_token)),
        *(f"{n / _MIB:.1f}" for n in sizes),
        *(str(row.preemptions), str(row.window_blocks)),
    )


_QUALITY_HEAD = (
    *("contender", "depth", "scored", "KL mean", "KL p99", "same top"),
    *("perplexity", "base"),
)


def _quality(rows: Sequence[QualityRow]) -> list[str]:
    parts = [
        "KL(base ‖ contender) in nats, and how often the likeliest token is the base's, at the "
        "positions before each depth."
    ]
    for base in dict.fromkeys(row.base for row in rows):
        own = "computed in the same run" if base == BASE else "from a file"
        parts.append(f"Base `{base}`, {own}:")
        parts.append(_table(_QUALITY_HEAD, (_quality_cells(r) for r in rows if r.base == base)))
    return parts


def _quality_cells(row: QualityRow) -> tuple[str, ...]:
    return (
        *(row.contender, str(row.depth), str(row.n_scored)),
        *(f"{row.kl_mean:.2e}", f"{row.kl_p99:.2e}", f"{row.same_top:.2%}"),
        *(f"{row.perplexity:.3f}", f"{row.base_perplexity:.3f}"),
    )


_REUSE_HEAD = (
    *("contender", "KV, MiB", "prompt tokens", "hit", "hit rate", "could be", "recomputed"),
    *("evicted blocks", "TTFT mean, ms", "p99", "missed because"),
)


def _reuse(rows: Sequence[ReuseRow]) -> list[str]:
    return [
        "Chats with shared system prompts, and documents that are read once, in a cache that "
        "cannot hold all of them. Hits and evictions are the metrics `quarrel_prefix_cache_*` and "
        "`quarrel_kv_cache_evictions_total`; recomputed: prompt tokens that had been computed "
        "before and were not there any more. None of these depends on the machine's speed.",
        _table(_REUSE_HEAD, map(_reuse_cells, rows)),
    ]


def _reuse_cells(row: ReuseRow) -> tuple[str, ...]:
    if row.ttft is None:
        return (row.contender, f"{row.kv_cache_bytes / _MIB:.1f}", *("-",) * 8, row.refusal)
    possible = row.possible_tokens / max(row.prompt_tokens, 1)
    return (
        row.contender,
        f"{row.kv_cache_bytes / _MIB:.1f}",
        *(str(row.prompt_tokens), str(row.hit_tokens), f"{row.hit_rate:.1%}", f"{possible:.1%}"),
        *(str(row.recomputed_tokens), str(row.evicted_blocks)),
        *(f"{1000 * row.ttft.mean:.1f}", f"{1000 * row.ttft.p99:.1f}"),
        ", ".join(f"{reason} {n}" for reason, n in sorted(row.miss_tokens.items())),
    )


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    return "\n".join(markdown_table([head, *lines], n_left=1))


def _title(path: str) -> str:
    return path.rsplit("/", 1)[-1].partition(".")[0].replace("-", " ")
