"""The comparison with llama.cpp at toy size, our side only, so that it cannot rot."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "compare_llamacpp.py"


def test_our_side(tiny_model_path: Callable[[str], Path], tmp_path: Path) -> None:
    out = tmp_path / "rows.json"
    sizes = ["--repeat", "2", "--depth", "64", "--decode", "8", "--prompt", "16"]
    command = [sys.executable, str(SCRIPT), str(tiny_model_path("llama3")), *sizes]
    subprocess.run([*command, "--json", str(out)], check=True, timeout=120)
    record = json.loads(out.read_text())
    assert [row["work"]["kind"] for row in record["rows"]].count("decode") == 3
    assert all(row["ours"] > 0 for row in record["rows"])
    assert all(
        len(row["output_hash"]) == 12 for row in record["rows"] if row["work"]["kind"] != "start"
    )
    assert record["memory"]["resident_bytes"] > record["memory"]["weights"]


def test_chosen_rows(tiny_model_path: Callable[[str], Path]) -> None:
    command = [sys.executable, str(SCRIPT), str(tiny_model_path("llama3")), "--repeat", "1"]
    sizes = ["--depth", "64", "--decode", "8", "--prompt", "16"]
    some = subprocess.run(
        [*command, *sizes, "--rows", "at depth"], check=True, timeout=120, capture_output=True
    )
    assert len(some.stdout.decode().splitlines()) == 4  # model, head, two rows
    none = subprocess.run([*command, "--rows", "no such"], timeout=120, capture_output=True)
    assert none.returncode == 2
