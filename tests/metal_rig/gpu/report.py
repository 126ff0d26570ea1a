"""Tables of a run's results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SHOWN = ("label", "block_size", "partition", "round", "window", "matrix", "tokens_per_pass")


def copy_rate(results: Mapping[str, Any]) -> float:
    """Bytes per second of the copy that the same run measured."""
    rates = [
        row["n_bytes"] / row["seconds"] for row in results["measure"] if row.get("name") == "copy"
    ]
    return max(rates)


def _line(row: Mapping[str, Any], ceiling: float) -> str:
    if "failed" in row:
        return f"| failed | {row['case']} | | | | |"
    rate = row["n_bytes"] / row["seconds"]
    details = row["details"]
    shape = " ".join(
        f"{name} {details[name]}"
        for name in (
            "label",
            "block_size",
            "partition",
            "round",
            "window",
            "matrix",
            "tokens_per_pass",
        )
        if details.get(name)
    )
    if details.get("paged") is False:
        shape += " contiguous"
    teraflops = row["n_operations"] / row["seconds"] / 1e12
    speed = f"{teraflops:.1f} TFLOP/s" if row["group"].startswith("prefill") else ""
    return (
        f"| {row['group']} | {row['name']} | {shape} | {row['seconds'] * 1e6:,.1f} | "
        f"{rate / 1e9:,.0f} | {rate / ceiling:.0%} | {speed} | {row['error']:.1e} |"
    )


def table(results: Mapping[str, Any]) -> str:
    """All rows, and what was checked."""
    lines = [f"{results['gpu']}, {results['cores']} cores, {results['date']}", ""]
    if isinstance(results.get("measure"), list):
        lines += ["| kernel | size | | us | GB/s | of copy | | error |", "|---" * 8 + "|"]
        ceiling = copy_rate(results)
        lines += [_line(row, ceiling) for row in results["measure"]]
    if "check" in results:
        lines += ["", f"check: {results['check']}"]
    if isinstance(results.get("sanitize"), list):
        wrong = [f for f in results["sanitize"] if not f["is_right"]]
        lines += ["", f"sanitize: {len(results['sanitize'])} runs, {len(wrong)} wrong"]
        lines += [f"- {f['tool']} {f['name']}: {f['summary']}" for f in wrong]
    return "\n".join(lines)


def page(results: Mapping[str, Any]) -> str:
    return table(results)
