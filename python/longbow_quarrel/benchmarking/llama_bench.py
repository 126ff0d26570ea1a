"""Measurements as llama-bench prints them: its names where it has one, ours beside them."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from longbow_quarrel.benchmarking.machine import Machine
from longbow_quarrel.benchmarking.measure import Measurement
from longbow_quarrel.benchmarking.tables import markdown_table
from longbow_quarrel.model_runner import ModelRunner

FORMATS = ("md", "json", "csv")
_NANOSECONDS = 1e9


@dataclass(frozen=True)
class Subject:
    """What all rows of a run have in common."""

    model_filename: str
    model_type: str
    model_size: int
    model_n_params: int
    machine: Machine
    cache: str
    type_k: str
    type_v: str
    n_batch: int


def subject(runner: ModelRunner, machine: Machine) -> Subject:
    """What is measured; ``model_type`` is architecture, parameters and most bytes' type."""
    tensors = runner.file.tensors
    n_params = sum(t.n_elements for t in tensors)
    by_type: dict[str, int] = {}
    for tensor in tensors:
        by_type[tensor.dtype] = by_type.get(tensor.dtype, 0) + tensor.n_bytes
    kind = max(by_type, key=by_type.__getitem__)
    config = runner.config
    return Subject(
        model_filename=runner.file.path,
        model_type=f"{runner.file.get('general.architecture')} {_count(n_params, '')} {kind}",
        model_size=sum(by_type.values()),
        model_n_params=n_params,
        machine=machine,
        cache=runner.cache.strategy,
        type_k=config.kv_type_k,
        type_v=config.kv_type_v,
        n_batch=runner.max_tokens,
    )


def record(about: Subject, row: Measurement, bandwidth: float, test_time: str) -> dict[str, Any]:
    """One row; ``n_batch`` is llama-bench's (tokens of a step), ``n_seqs`` texts side by side."""
    nanoseconds = [round(s * _NANOSECONDS) for s in row.seconds]
    return {
        "version": about.machine.version,
        "cpu_info": about.machine.cpu,
        "backends": _backend(about.machine),
        "model_filename": about.model_filename,
        "model_type": about.model_type,
        "model_size": about.model_size,
        "model_n_params": about.model_n_params,
        "n_batch": about.n_batch,
        "n_threads": about.machine.n_threads,
        "isa": about.machine.isa,
        "cache": about.cache,
        "type_k": about.type_k,
        "type_v": about.type_v,
        "n_prompt": row.work.n_prompt,
        "n_gen": row.work.n_gen,
        "n_depth": row.work.depth,
        "n_seqs": row.work.batch,
        "test_time": test_time,
        "avg_ns": round(statistics.mean(nanoseconds)),
        "stddev_ns": round(statistics.stdev(nanoseconds)) if len(nanoseconds) > 1 else 0,
        "avg_ts": row.tokens_per_second,
        "stddev_ts": row.deviation,
        "bytes_per_token": row.bytes_per_token,
        "bandwidth_bytes_per_second": bandwidth,
        "share_of_limit": row.share_of_limit(bandwidth),
        "result_hash": row.result_hash,
        "samples_ns": nanoseconds,
        "samples_ts": row.samples,
    }


def as_text(records: Sequence[dict[str, Any]], form: str) -> str:
    """All rows in one of :data:`FORMATS`."""
    if form == "json":
        return json.dumps(list(records), indent=2) + "\n"
    return _csv(records) if form == "csv" else _markdown(records)


def _csv(records: Sequence[dict[str, Any]]) -> str:
    out = io.StringIO()
    columns = [name for name in records[0] if not name.startswith("samples_")]
    writer = csv.DictWriter(out, columns, extrasaction="ignore", quoting=csv.QUOTE_NONNUMERIC)
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


_HEAD = (
    *("model", "size", "params", "backend", "threads", "cache", "type_k", "type_v", "batch"),
    *("test", "t/s", "MB/token", "of limit", "hash"),
)


def _markdown(records: Sequence[dict[str, Any]]) -> str:
    lines = [_HEAD, *(_cells(r) for r in records)]
    return "\n".join(markdown_table(lines, n_left=1)) + "\n"


def _cells(r: dict[str, Any]) -> tuple[str, ...]:
    depth = f" @ d{r['n_depth']}" if r["n_depth"] else ""
    name = f"tg{r['n_gen']}" if r["n_gen"] else f"pp{r['n_prompt']}"
    return (
        r["model_type"],
        _size(r["model_size"]),
        _count(r["model_n_params"], " "),
        r["backends"],
        str(r["n_threads"]),
        r["cache"],
        r["type_k"],
        r["type_v"],
        str(r["n_seqs"]),
        name + depth,
        f"{r['avg_ts']:.2f} ± {r['stddev_ts']:.2f}",
        f"{r['bytes_per_token'] / 1e6:.2f}",
        f"{r['share_of_limit']:.0%}",
        r["result_hash"],
    )


def _backend(machine: Machine) -> str:
    return {"cpu": "CPU", "metal": "Metal"}.get(machine.device, machine.device)


def _size(n_bytes: int) -> str:
    gibibytes = n_bytes / 2**30
    return f"{gibibytes:.2f} GiB" if gibibytes >= 1 else f"{n_bytes / 2**20:.2f} MiB"


def _count(n: int, space: str) -> str:
    return f"{n / 1e9:.2f}{space}B" if n >= 1e9 else f"{n / 1e6:.2f}{space}M"
