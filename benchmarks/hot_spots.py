"""Hot spots of real models under sustained load: tables for docs/reports/hot-spots.md.

    python benchmarks/hot_spots.py -t 2 --seconds 60 -o docs/reports/hot-spots.json

Runs ``longbow-quarrel profile`` for each model and workload, one after the other, writes what it
says to one JSON file, and prints the tables. ``--show FILE`` prints those of a file.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

MODELS = ("smollm2-135m", "gemma3-270m")
WORKLOADS = {
    "serve": ["--clients", "8", "--prompt-tokens", "256", "-n", "128", "-c", "2048"],
    "prompt": ["-n", "256", "-c", "2048"],
}
ROWS = 10
_COMMAND = [sys.executable, "-m", "longbow_quarrel.cli", "profile", "--json"]


def main() -> int:
    arguments = _arguments()
    if arguments.show is not None:
        report = json.loads(arguments.show.read_text())
    else:
        report = {
            "machine": _machine(),
            "runs": [_run(arguments, *key) for key in _keys(arguments)],
        }
        arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    print("\n".join(line for run in report["runs"] for line in _table(run)))
    return 0


def _keys(arguments: argparse.Namespace) -> list[tuple[str, str]]:
    return [(model, workload) for model in arguments.models for workload in WORKLOADS]


def _run(arguments: argparse.Namespace, model: str, workload: str) -> dict[str, Any]:
    flags = ["-w", workload, "-m", model, "-t", str(arguments.threads), *WORKLOADS[workload]]
    if workload == "serve":
        flags += ["--seconds", str(arguments.seconds)]
    with tempfile.TemporaryDirectory() as folder:
        trace = str(Path(folder) / "trace.json.gz")
        command = [*_COMMAND, *flags, "-o", trace]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    report: dict[str, Any] = json.loads(out)
    kept = ("model", "workload", "seconds", "steps", "tokens", "busy", "hot_spots")
    shown = [Path(model).name if flag == model else flag for flag in flags[2:]]
    return {"flags": " ".join(shown), **{key: report[key] for key in kept}}


def _table(run: dict[str, Any]) -> list[str]:
    tokens = ", ".join(
        f"{n} {phase} steps with {run['tokens'][phase]} tokens" for phase, n in run["steps"].items()
    )
    lines = [f"### {run['model']}, `{run['workload']}`", "", f"{run['seconds']:.0f} s: {tokens}."]
    lines += ["", "| what | phase | share | each | busy |", "|---|---|---|---|---|"]
    for row in run["hot_spots"][:ROWS]:
        each = f"{1e3 * row['seconds'] / row['n_runs']:.3g} ms" if row["n_runs"] else ""
        busy = "" if row["busy"] is None else f"{row['busy']:.0%}"
        lines.append(f"| {row['name']} | {row['phase']} | {row['share']:.1%} | {each} | {busy} |")
    return [*lines, ""]


def _machine() -> dict[str, Any]:
    return {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "load": [round(x, 1) for x in os.getloadavg()],
        "python": platform.python_version(),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-m", "--models", nargs="+", default=MODELS)
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("-o", "--output", type=Path, default=Path("hot-spots.json"))
    parser.add_argument("--show", type=Path, metavar="FILE")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
