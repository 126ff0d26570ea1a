"""``bench``: llama-bench's labels and columns, three formats, misuse."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from cli.running import Run

SIZES = ("-p", "32", "-n", "4", "-d", "0,64", "-b", "1,2", "-r", "2", "-t", "1")


def test_json_has_the_fields_of_llama_bench(cli: Run, llama3: Path) -> None:
    result = cli("bench", "-m", llama3, *SIZES, "-o", "json")
    assert (result.code, result.err) == (0, "")
    rows = json.loads(result.out)
    assert len(rows) == 8
    for row in rows:
        assert row["n_threads"] == 1
        assert (row["type_k"], row["type_v"], row["cache"]) == ("f16", "f16", "contiguous")
        assert len(row["samples_ns"]) == len(row["samples_ts"]) == 2
        n_tokens = row["n_seqs"] * (row["n_prompt"] or row["n_gen"])
        assert row["samples_ts"][0] == pytest.approx(n_tokens / row["samples_ns"][0] * 1e9, 1e-3)
        assert row["avg_ts"] == pytest.approx(sum(row["samples_ts"]) / 2)
        assert row["bytes_per_token"] > 0
        assert row["bandwidth_bytes_per_second"] > 1e8
        share = row["avg_ts"] * row["bytes_per_token"] / row["bandwidth_bytes_per_second"]
        assert row["share_of_limit"] == pytest.approx(share)
    assert {(r["n_prompt"], r["n_gen"], r["n_depth"]) for r in rows} == {
        *((32, 0, 0), (0, 4, 0), (32, 0, 64), (0, 4, 64))
    }
    again = cli("bench", "-m", llama3, *SIZES, "-o", "json", "--cache", "paged").out
    assert [r["result_hash"] for r in json.loads(again)] == [r["result_hash"] for r in rows]


def test_csv_and_markdown(cli: Run, llama3: Path) -> None:
    arguments = ("bench", "-m", llama3, "-p", "8", "-n", "2", "-d", "16", "-r", "1", "-t", "1")
    rows = list(csv.DictReader(io.StringIO(cli(*arguments, "-o", "csv").out)))
    assert [row["n_prompt"] for row in rows] == ["8", "0"]
    assert float(rows[1]["avg_ts"]) > 0
    lines = cli(*arguments).out.splitlines()
    assert [cell.strip() for cell in lines[0].split("|")[1:6]] == [
        *("model", "size", "params", "backend", "threads")
    ]
    assert " pp8 @ d16 |" in lines[2]
    assert " tg2 @ d16 |" in lines[3]
    assert len({len(line) for line in lines}) == 1


def test_a_plug_in_is_measured(cli: Run, llama3: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "pile.py"
    plugin.write_text(
        "from longbow_quarrel.cache import register_strategy\n"
        "from longbow_quarrel.strategy import BlockStrategy\n"
        "class Pile(BlockStrategy):\n"
        "    def __init__(self, config):\n"
        "        super().__init__('pile', config)\n"
        "        self.free = list(range(self.n_total))\n"
        "    def take(self, n):\n"
        "        return [self.free.pop() for _ in range(n)] if n <= len(self.free) else None\n"
        "    def give_back(self, blocks):\n"
        "        self.free += blocks\n"
        "register_strategy('pile', Pile)\n"
    )
    sizes = ("-p", "8", "-n", "4", "-d", "20", "-b", "2", "-r", "2", "-t", "1", "-o", "json")
    rows = [
        json.loads(cli("bench", "-m", llama3, *sizes, *more).out)
        for more in ((), ("--plugin", plugin, "--cache", "pile"))
    ]
    assert rows[1][0]["cache"] == "pile"
    assert [r["result_hash"] for r in rows[0]] == [r["result_hash"] for r in rows[1]]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("-p", "many"), "-p takes whole numbers"),
        (("-d", "-1"), "-d takes whole numbers of at least 0"),
        (("-b", "0"), "-b takes whole numbers of at least 1"),
        (("-r", "0"), "-r must be at least 1"),
        (("-o", "html"), "-o takes md, json or csv"),
        (("-p", "0", "-n", "0"), "nothing to measure"),
        (("--cache", "ring"), "expected one of contiguous"),
        (("--plugin", "missing.py"), "missing.py is no Python file"),
    ],
)
def test_misuse(cli: Run, llama3: Path, arguments: tuple[str, ...], part: str) -> None:
    result = cli("bench", "-m", llama3, *arguments)
    assert (result.code, result.out) == (2, "")
    assert part in result.err
    assert result.err.count("\n") == 1


def test_a_plug_in_that_fails_is_named(cli: Run, llama3: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import no_such_module\n")
    result = cli("bench", "-m", llama3, "--plugin", "broken.py")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "broken.py" in result.err
    assert "no_such_module" in result.err
