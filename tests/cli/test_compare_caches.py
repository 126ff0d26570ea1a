"""``compare-caches``: a smoke matrix with a strategy and a policy from a plug-in, misuse."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from cli.running import Run

PLUGIN = """
from longbow_quarrel import _core
from longbow_quarrel.cache import register_eviction_policy, register_strategy
from longbow_quarrel.strategy import BlockStrategy


class Stack(BlockStrategy):
    def __init__(self, config):
        super().__init__("stack", config)
        self.free = list(range(self.n_total))
        print("made")  # must not end up among the figures

    def take(self, n):
        return [self.free.pop() for _ in range(n)] if n <= len(self.free) else None

    def give_back(self, blocks):
        self.free += blocks


class Newest(_core.EvictionPolicy):
    def __init__(self, n_blocks):
        super().__init__()
        self.order = []

    def insert(self, block, use):
        self.order.append(block)

    def erase(self, block):
        self.order.remove(block)

    def victim(self):
        return self.order[-1]


register_strategy("stack", Stack)
register_eviction_policy("newest", Newest)
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN)
    return path


def test_a_smoke_matrix(process: Run, llama3: Path, plugin: Path, tmp_path: Path) -> None:
    result = process(
        *("compare-caches", "-m", llama3, "-t", 1, "-l", "32,96", "-b", "1,2", "-n", 6, "-r", 2),
        *("--cell-tokens", 64, "--chunks", 1, "--plugin", plugin, "--eviction", "lru,newest"),
        *("--cache", "contiguous,paged,stack,sliding_window:window=48", "--out", "out", "--json"),
    )
    assert (result.code, result.err.replace("made\n", "")) == (0, "")
    found = json.loads(result.out.replace("made\n", ""))
    assert found == json.loads((tmp_path / "out" / "report.json").read_text())
    contenders = ["contiguous", "paged", "stack", "sliding_window:window=48"]
    assert found["contenders"] == contenders
    _check_speed(found["speed"], contenders)
    by_depth = {(r["contender"], r["depth"]): r for r in found["quality"]}
    assert {depth for _, depth in by_depth} == {32, 64, 96}
    for depth in (32, 64, 96):
        same = [by_depth[name, depth]["kl_mean"] for name in contenders[:3]]
        assert same[0] == same[1] == same[2] < 1e-4
    assert by_depth[contenders[3], 96]["kl_mean"] > 1e-3
    hits = {r["contender"]: r["hit_rate"] for r in found["reuse"]}
    assert hits.keys() == {
        *("contiguous", "paged:eviction=lru", "paged:eviction=newest", "stack"),
        "sliding_window:window=48",
    }
    assert hits["stack"] == 0 < hits["paged:eviction=lru"] != hits["paged:eviction=newest"]
    _check_files(tmp_path / "out")


def _check_speed(rows: list[dict[str, object]], contenders: list[str]) -> None:
    cells = [(32, 1), (32, 2)]  # with 96 tokens they are too large
    assert [(r["length"], r["batch"]) for r in rows] == [c for c in cells for _ in contenders]
    for cell in cells:
        own = {r["contender"]: r for r in rows if (r["length"], r["batch"]) == cell}
        hashes = [own[name]["token_hash"] for name in contenders]
        assert len(set(hashes[:3])) == 1
        for row in own.values():
            assert row["n_requests"] == 2 * cell[1]
            for name in ("ttft", "itl", "tpot", "e2e"):
                assert 0 < row[name]["p50"] <= row[name]["p90"] <= row[name]["p99"]
            assert row["decode_rate"] > 0
            assert row["peak_resident_bytes"] > row["peak_device_bytes"] > row["kv_used_bytes"] > 0


def _check_files(folder: Path) -> None:
    page = (folder / "report.md").read_text()
    pictures = sorted((folder / "plots").iterdir())
    assert len(pictures) == 2 * 12
    for picture in pictures:
        if picture.suffix == ".png":
            assert picture.read_bytes().startswith(b"\x89PNG")
        else:
            ElementTree.parse(picture)
            assert f"(plots/{picture.name})" in page
    for title in ("Speed", "Latency", "Memory", "Quality by depth", "Reuse"):
        assert f"\n## {title}" in page


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--parts", "speed,sound"), "--parts takes speed, quality, reuse, not 'sound'"),
        (("-n", "1"), "-n must be at least 2"),
        (("--cell-tokens", "8"), "leaves no cell"),
        (("--cache", "ring"), "expected one of contiguous"),
        (("--cache", "sliding_window:window=0"), "window"),
        (("--eviction", "oldest"), "eviction: expected one of lru"),
        (("-f", "missing"), "missing cannot be read"),
        (("-l", "64", "-f", "short"), "give a longer one"),
    ],
)
def test_misuse(
    cli: Run, llama3: Path, tmp_path: Path, arguments: tuple[str, ...], part: str
) -> None:
    (tmp_path / "short").write_text("A few words.")
    result = cli("compare-caches", "-m", llama3, *arguments)
    assert (result.code, result.out) == (2, "")
    assert part in result.err
    assert result.err.count("\n") == 1


def test_a_report_that_cannot_be_written(process: Run, llama3: Path, tmp_path: Path) -> None:
    """Minutes of work are on the screen all the same."""
    (tmp_path / "out" / "report.md").mkdir(parents=True)
    small = ("--parts", "speed", "-l", 8, "-b", 1, "-n", 2, "-r", 1, "--cache", "paged", "-t", 1)
    result = process("compare-caches", "-m", llama3, *small, "--out", "out")
    assert result.code == 2
    assert "| paged" in result.out
    assert "out cannot be written to (Is a directory)" in result.err
