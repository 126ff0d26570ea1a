"""Puts the results of a run that measured a part in place of those of an earlier one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Results = Mapping[str, Any]


def run_of(results: Results, row: Mapping[str, Any]) -> str:
    """The run that a row, a check or a finding comes from, by the time of its start."""
    return str(row.get("run", results.get("run", results["date"])))


def _case(row: Mapping[str, Any]) -> str:
    """What a row measures. A ceiling belongs to its run: others' shares are of that one."""
    details = {k: v for k, v in row.get("details", {}).items() if k != "tokens_per_second"}
    ceiling = row["run"] if row.get("group") == "ceiling" else ""
    return repr((row.get("group"), row.get("name"), sorted(details.items()), ceiling))


def _measured(results: Results) -> list[dict[str, Any]]:
    rows = results.get("measure", [])
    failed = [row["case"] for row in rows if "failed" in row] if isinstance(rows, list) else [rows]
    if failed:
        raise ValueError(f"a run with failures is not merged: {failed}")
    return [dict(row) | {"run": run_of(results, row)} for row in rows]


def merged(base: Results, new: Results) -> dict[str, Any]:
    """`base`, with what `new` has of the same cases, findings and checks in its place.

    Raises ValueError for another GPU and for a run with failures.
    """
    if base["gpu"] != new["gpu"]:
        raise ValueError(f"results of {base['gpu']} and {new['gpu']} are not merged")
    rows = {_case(row): row for results in (base, new) for row in _measured(results)}
    used = {row["run"] for row in rows.values() if row["group"] != "ceiling"}
    result = {
        **base,
        "date": new["date"],
        "measure": [r for r in rows.values() if r["run"] in used],
    }
    result.pop("run", None)
    if "check" in new:
        result["check"] = dict(new["check"]) | {"run": run_of(new, new["check"])}
    findings = {
        (f["name"], f["tool"]): dict(f) | {"run": run_of(part, f)}
        for part in (base, new)
        for f in part.get("sanitize", [])
    }
    return result | {"sanitize": list(findings.values())}
