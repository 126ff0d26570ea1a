"""The report's tables are those of its figures; the benchmark runs at toy size."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
REPORT = ROOT / "docs" / "reports" / "hot-spots.md"


@pytest.fixture
def hot_spots() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hot_spots", ROOT / "benchmarks/hot_spots.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_report_shows_its_figures(
    hot_spots: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["hot_spots", "--show", str(REPORT.with_suffix(".json"))])
    assert hot_spots.main() == 0
    assert capsys.readouterr().out.strip() in REPORT.read_text()


def test_it_runs(
    hot_spots: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, out = ROOT / "tests/data/models/llama3.gguf", tmp_path / "out.json"
    monkeypatch.setattr(hot_spots, "WORKLOADS", {"serve": ["--clients", "2", "-n", "2"]})
    arguments = ["-m", str(model), "-t", "1", "--seconds", "0", "-o", str(out)]
    monkeypatch.setattr(sys, "argv", ["hot_spots", *arguments])
    assert hot_spots.main() == 0
    table = capsys.readouterr().out
    assert table.startswith("### llama3.gguf, `serve`\n")
    assert table.count(" | prefill | ") >= 3
    assert len(table.splitlines()) == 6 + hot_spots.ROWS + 1
    [run] = json.loads(out.read_text())["runs"]
    assert sum(row["share"] for row in run["hot_spots"]) == pytest.approx(1)
