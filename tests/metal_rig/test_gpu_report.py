"""Results of GPU runs: a part measured again takes the place of what it was before."""

from __future__ import annotations

import json
from typing import Any

import pytest

from metal_rig.gpu.build import ROOT
from metal_rig.gpu.merge import merged
from metal_rig.gpu.report import page

Results = dict[str, Any]


def row(group: str, name: str, seconds: float, **details: Any) -> dict[str, Any]:
    details = {"label": ""} | details
    sizes = {"n_bytes": 1000, "n_operations": 10, "error": 0.0}
    return {"group": group, "name": name, "seconds": seconds, "details": details} | sizes


def committed() -> Results:
    results: Results = json.loads((ROOT / "docs" / "reports" / "gpu.json").read_text())
    return results


def part_of(results: Results, *rows: dict[str, Any], copy_seconds: float) -> Results:
    copy = row("ceiling", "copy", copy_seconds)
    run = {"date": "2999-01-01", "run": "2999-01-01 00:00", "gpu": results["gpu"], "cores": 1}
    return run | {"measure": [copy, *rows]}


def findings(results: Results) -> list[tuple[str, str, bool]]:
    return [(f["name"], f["tool"], f["is_right"]) for f in results["sanitize"]]


def test_the_committed_table_is_the_report_of_the_committed_results() -> None:
    table = (ROOT / "docs" / "reports" / "gpu.md").read_text()
    assert table.rstrip("\n") == page(committed()).rstrip("\n")


def test_a_part_takes_the_place_of_its_cases_alone() -> None:
    base = committed()
    again = row("linear", "Q4_0", 0.5, tokens_per_pass=1)
    result = merged(base, part_of(base, again, copy_seconds=1.0))
    [found] = [
        r
        for r in result["measure"]
        if r["name"] == "Q4_0" and r["details"] == again["details"] and r["group"] == "linear"
    ]
    assert found["seconds"] == 0.5
    assert len(result["measure"]) == len(base["measure"]) + 1  # the part's ceiling
    assert findings(result) == findings(base)
    assert result["check"] == base["check"]


def test_a_share_is_of_the_ceiling_of_its_own_run() -> None:
    base = committed()
    again = row("linear", "Q4_0", 0.5, tokens_per_pass=1)
    lines = page(merged(base, part_of(base, again, copy_seconds=0.125))).splitlines()
    before = page(base).splitlines()
    assert "| mat-vec Q4_0: at least 60% of copy | 25% | **no** |" in lines
    [q8_0] = [line for line in before if line.startswith("| mat-vec Q8_0: at least")]
    assert q8_0 in lines, "others keep their share"


def test_peers_count_as_they_are_and_beside_them_with_rounded_products() -> None:
    base = committed()
    own = row("prefill", "8 x 4096", 1.0, matrix="half")
    peers = [
        row("prefill", "8 x 4096", seconds, label=label)
        for label, seconds in (("vllm-metal", 5.0), ("mlx", 9.0), ("mlx products of halves", 2.0))
    ]
    kept = [r for r in base["measure"] if r["group"] != "prefill"]
    [line] = [
        line
        for line in page(base | {"measure": [*kept, own, *peers]}).splitlines()
        if line.startswith("| prefill f16, 8 x 4096: at least")
    ]
    assert "| 5.0 x; 2.0 x with their products rounded to halves | yes |" in line


def test_findings_are_replaced_by_test_and_tool() -> None:
    base = committed()
    first = base["sanitize"][0] | {"is_right": False}
    result = merged(base, part_of(base, copy_seconds=1.0) | {"sanitize": [first]})
    assert len(result["sanitize"]) == len(base["sanitize"])
    assert [f["name"] for f in result["sanitize"] if not f["is_right"]] == [first["name"]]
    assert len(result["measure"]) == len(base["measure"]), "a ceiling that nothing refers to goes"


def test_checks_of_an_earlier_run_do_not_hold() -> None:
    base = committed()
    again = row("linear", "Q4_0", 0.5, tokens_per_pass=1)
    part = part_of(base, again, copy_seconds=1.0)
    lines = page(merged(base, part)).splitlines()
    [line] = [line for line in lines if line.startswith("| kernel tests")]
    assert "not since the last run | **no** |" in line
    part |= {"check": {"exit": 0, "summary": "7 passed"}, "sanitize": base["sanitize"]}
    lines = page(merged(base, part)).splitlines()
    assert "| kernel tests, each kernel five times | 7 passed | yes |" in lines


def test_what_is_not_merged() -> None:
    base = committed()
    part = part_of(base, copy_seconds=1.0)
    with pytest.raises(ValueError, match="are not merged"):
        merged(base, part | {"gpu": "another"})
    with pytest.raises(ValueError, match="with failures"):
        merged(base, part | {"measure": [{"case": "Linear", "failed": "trace"}]})
