"""A comparison's tables and plots where a cell has no figure."""

from __future__ import annotations

from pathlib import Path

from longbow_quarrel.benchmarking import plots
from longbow_quarrel.benchmarking.comparison import Comparison
from longbow_quarrel.benchmarking.machine import Machine
from longbow_quarrel.benchmarking.report import tables
from longbow_quarrel.benchmarking.speed import SpeedRow
from longbow_quarrel.benchmarking.summary import Summary

MACHINE = Machine("a cpu", 2, 1 << 34, "Linux", "3.11", "0", "cpu", "avx2", 2, 0.0)
LATENCIES = dict.fromkeys(("ttft", "itl", "tpot", "e2e"), Summary.of([0.5]))
SIZES = dict.fromkeys(
    (
        *("kv_bytes_per_token", "bytes_per_token", "peak_resident_bytes", "peak_device_bytes"),
        *("kv_capacity_bytes", "kv_used_bytes", "preemptions", "window_blocks"),
    ),
    7,
)


def row(length: int, decode_rate: float) -> SpeedRow:
    return SpeedRow(
        **{"contender": "paged", "length": length, "batch": 16, "n_requests": 16},
        **{"output_rate": 20.0, "decode_rate": decode_rate, "share_of_limit": decode_rate / 100},
        **{"token_hash": "abc"},
        **LATENCIES,
        **SIZES,
    )


def test_a_rate_that_no_step_had_is_no_zero(tmp_path: Path) -> None:
    rows = [row(32, 50.0), row(4096, 0.0)]
    found = Comparison("m", MACHINE, "today", 1e9, ["paged"], {}, speed=rows)
    lines = [line.split() for line in tables(found).splitlines()[2:4]]
    decoded, limit, relative = 9, 13, 15  # of a row's words, bars between them
    assert [lines[0][i] for i in (decoded, limit, relative)] == ["50.0", "50%", "1.00"]
    assert [lines[1][i] for i in (decoded, limit, relative)] == ["-", "-", "-"]
    assert "decode-speed-over-depth.svg" in {p.name for p in plots.draw(found, tmp_path)}
