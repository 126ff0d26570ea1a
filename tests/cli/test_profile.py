"""``profile``: a trace and a table of every workload; misuse is explained."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from cli.running import Run


@pytest.mark.parametrize(
    "arguments",
    [("Hello",), ("-w", "chat"), ("-w", "serve", "--clients", 2, "--seconds", 0.1)],
)
def test_workloads(cli: Run, llama3: Path, tmp_path: Path, arguments: tuple[object, ...]) -> None:
    sizes = ("-m", llama3, "-n", 4, "-t", 2, "--prompt-tokens", 8, "-c", 512)
    result = cli("profile", *arguments, *sizes, "--top", 3)
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0].split() == ["what", "phase", "runs", "seconds", "share", "each", "busy"]
    assert lines[4] == ""  # three hot spots before it
    assert "events in trace.json.gz" in result.out
    trace = json.loads(gzip.decompress((tmp_path / "trace.json.gz").read_bytes()))
    assert any(e["name"] == "attention" for e in trace["traceEvents"])


def test_json(cli: Run, gemma3: Path) -> None:
    result = cli("profile", "Hello", "-m", gemma3, "-n", 4, "--json", "-o", "t.json")
    report = json.loads(result.out)
    assert json.loads(Path(report["trace"]).read_text())["otherData"]["strategy"] == "paged"
    assert (report["model"], report["workload"]) == ("gemma3.gguf", "prompt")
    assert report["config"]["cache"] == "paged"
    assert report["steps"] == {"prefill": 1, "decode": 3}
    assert sum(row["share"] for row in report["hot_spots"]) == pytest.approx(1)


def test_the_strategy_can_be_chosen(cli: Run, llama3: Path) -> None:
    result = cli("profile", "-m", llama3, "-n", 2, "--json", "--cache", "contiguous")
    assert json.loads(result.out)["engine"]["cache"]["strategy"] == "contiguous"


def test_few_spans_are_told_of(cli: Run, llama3: Path) -> None:
    assert "older spans are not in the trace" in cli("profile", "-m", llama3, "--spans", 8).out


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("Hello", "-w", "chat"), "chat takes no PROMPT"),
        (("-w", "everything"), "everything"),
        (("-o", "missing/trace.json"), "missing is no folder"),
        (("--gputrace", "x.gputrace"), "needs the GPU of a Mac"),
        (("--clients", 0), "--clients"),
        (("-n", 0), "max_tokens"),
    ],
)
def test_misuse(cli: Run, llama3: Path, arguments: tuple[object, ...], part: str) -> None:
    result = cli("profile", "-m", llama3, *arguments)
    assert (result.code, result.out) == (2, "")
    assert part in result.err
    assert result.err.count("\n") == 1
