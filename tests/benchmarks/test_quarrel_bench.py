"""Every operation and mode of quarrel-bench at toy size."""

from __future__ import annotations

import csv
import io
import subprocess
from collections.abc import Callable
from itertools import groupby
from typing import Any

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Rows = Callable[..., list[dict[str, Any]]]

SHAPE = (
    *("--heads", "4", "--kv-heads", "2", "--head-dim", "32"),
    *("--n-in", "256", "--n-out", "80", "--prompt", "20"),
)
QUICK = ("--repeat", "3", "--bandwidth-mib", "8", "--threads", "1")
ALL_CACHES = ("--cache", "contiguous,paged,sliding_window")
TENSOR_OPS = "attention_decode,attention_prefill,kv_write,linear_decode,linear_prefill,decode_step"
CACHE_OPS = "cache_allocate,cache_append,cache_fork,cache_match,cache_evict,cache_step"


@pytest.mark.parametrize("window", [(), ("--window", "12", "--sinks", "3")], ids=["full", "window"])
def test_everything_agrees_with_the_reference(rows: Rows, window: tuple[str, ...]) -> None:
    axes = ("--depth", "20", "--batch", "1,3", "--type", "q4_1,q6_k,f16", "--ctk", "f32,f16")
    table = rows("--op", "all", "--mode", "test", *SHAPE, *QUICK, *ALL_CACHES, *axes, *window)
    assert {row["result"] for row in table} == {"ok"}
    assert {row["op"] for row in table} == {*TENSOR_OPS.split(","), *CACHE_OPS.split(",")}
    for row in table:
        assert row["error"] <= row["bound"] <= 1e-3


def test_results_do_not_depend_on_strategy_threads_or_instruction_set(rows: Rows) -> None:
    axes = ("--isa", "auto,avx2,portable", "--threads", "1,2", "--depth", "0,20", "--batch", "2")
    table = rows(
        "--op", TENSOR_OPS, *SHAPE, "--repeat", "1", "--bandwidth-mib", "0", *ALL_CACHES, *axes
    )
    assert len([row for row in table if row["note"] is None]) > 40
    same = [(row["op"], row["depth"], row["hash"]) for row in table if row["note"] is None]
    for key, group in groupby(sorted(same), key=lambda item: item[:2]):
        assert len({item[2] for item in group}) == 1, key


def test_other_depths_and_types_give_other_results(rows: Rows) -> None:
    axes = ("--depth", "16,17", "--ctk", "f16,f32", "--bandwidth-mib", "0", "--repeat", "1")
    table = rows("--op", "attention_decode,kv_write,decode_step", *SHAPE, *axes)
    for op in ("attention_decode", "kv_write", "decode_step"):
        assert len({row["hash"] for row in table if row["op"] == op}) == 4


def test_perf_rows_have_their_figures(rows: Rows) -> None:
    for row in rows("--op", TENSOR_OPS, *SHAPE, *QUICK, "--depth", "33"):
        assert row["time_us"] > 0
        assert row["noise_pct"] >= 0
        assert row["of_bandwidth_pct"] > 0
        # bytes = time * rate: at least what one query's row takes
        assert row["gb_s"] * row["time_us"] * 1000 >= 128
    for row in rows("--op", CACHE_OPS, *QUICK, *ALL_CACHES, "--depth", "200"):
        assert row["time_us"] > 0
        assert row["gb_s"] is None


def test_support_names_the_reason(rows: Rows) -> None:
    table = rows(
        *("--op", "attention_decode,linear_decode", "--mode", "support", "--device", "cpu,metal"),
        *("--head-dim", "64", "--depth", "0", "--n-in", "96", "--type", "q8_0,q6_k"),
        *("--ctk", "f16,q3_k"),
    )
    cpu = {(row["op"], row["ctk"] or row["type"]): row for row in table if row["device"] == "cpu"}
    assert cpu["attention_decode", "f16"]["supported"] == "yes"
    assert cpu["linear_decode", "q8_0"]["supported"] == "yes"
    assert "got Q3_K" in cpu["attention_decode", "q3_k"]["note"]
    assert "multiple of 256" in cpu["linear_decode", "q6_k"]["note"]
    metal = [row for row in table if row["device"] == "metal"]
    assert len(metal) == 4
    assert all(row["supported"] == "yes" or row["note"] for row in metal)


def test_more_memory_than_allowed_is_a_row_with_the_reason(rows: Rows) -> None:
    (row,) = rows("--op", "attention_decode", "--depth", "16000000", "--memory-gib", "1")
    assert row["time_us"] is None
    assert "memory" in row["note"]


def test_csv_and_markdown_have_the_same_rows(run: Run) -> None:
    arguments = ("--op", "cache_append,linear_decode", *SHAPE, *QUICK, "--depth", "40,80")
    table = list(csv.DictReader(io.StringIO(run(*arguments, "-o", "csv").stdout)))
    assert [row["op"] for row in table] == ["cache_append", "cache_append", "linear_decode"]
    lines = run(*arguments).stdout.splitlines()
    assert len(lines) == 2 + 3
    assert len({len(line) for line in lines}) == 1
    assert all(row["hash"] in line for row, line in zip(table, lines[2:], strict=True))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "--op is missing"),
        (("--op", "attention"), '"attention"'),
        (("--frobnicate",), '"--frobnicate"'),
        (("--op", "all", "--heads", "many"), '"many"'),
        (("--op", "all", "--heads", "-1"), '"-1"'),
        (("--op", "all", "--heads", "99999999999999999999"), "1 to 1024"),
        (("--op", "all", "--batch", "0"), "--batch expects a whole number from 1"),
        (("--op", "all", "--depth", "1,,2"), '"1,,2"'),
        (("--op", "all", "--ctk", "int3"), '"int3"'),
        (("--op", "all", "--cache", "ring"), "contiguous, paged, sliding_window"),
        (("--op", "all", "--mode", "fast"), "perf, test, support"),
        (("--op", "all", "--heads", "7"), "multiple of --kv-heads"),
        (("--op", "all", "--sinks", "4"), "--window"),
        (("--op",), "expects a value"),
    ],
)
def test_wrong_usage_is_one_sentence(run: Run, arguments: tuple[str, ...], sentence: str) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert sentence in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_help_names_every_operation(run: Run) -> None:
    result = run("--help")
    assert result.returncode == 0
    assert all(op in result.stdout for op in f"{TENSOR_OPS},{CACHE_OPS}".split(","))
