"""The benchmarks of the server, at toy size: load with disconnects, shared prompts, arrivals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from server.conftest import TINY

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(script: str, *arguments: object) -> dict[str, object]:
    command = [sys.executable, BENCHMARKS / script, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert result.stdout, result.stderr
    return json.loads(result.stdout)


def serve(*arguments: object) -> dict[str, object]:
    return run("serve.py", "-m", TINY, "--largest-id", 250, *arguments)


def test_load_with_callers_who_hang_up():
    report = serve(
        *("load", "--clients", 40, "--seconds", 4, "--warm-up", 1, "--tasks", 16),
        *("--longest-prompt", 90, "--longest-answer", 60, "--kv-cache-memory", "64KiB"),
        *("--max-num-seqs", 8, "--max-queue", 1),
    )
    bounds = report["bounds"]
    # Seconds are too short to tell a leak of memory from warming up.
    del bounds["resident memory within 2 %"]
    assert set(bounds.values()) == {True}, report
    assert report["answers"] > 50
    assert report["hung_up"] > 5
    assert report["busy"] > 0
    assert report["preemptions"] > 0


def test_the_comparison_measures_ours():
    report = serve(*("compare", "--clients", 4, "--prompt", 20, "--new", 20), "--repeats", 1)
    assert report["longbow-quarrel"]["tokens_per_second"] > 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("prefix", "--prompt", 100, "--repeats", 1),
        ("arrival", "--clients", 4, "--prompt", 448, "--chunk", 32, "--new", 480),
    ],
)
def test_shared_prompts_and_arrivals_are_measured(arguments):
    assert len(serve(*arguments)["bounds"]) == 1


@pytest.mark.parametrize("what", [(), ("--trace",)])
def test_the_overhead_of_metrics_is_measured(what):
    arguments = ("--pairs", 3, "-b", 1, 2, *what)
    report = run("metrics_overhead.py", "-m", TINY, *arguments)
    assert report["decode_overhead_by_batch"].keys() == {"1", "2"}
