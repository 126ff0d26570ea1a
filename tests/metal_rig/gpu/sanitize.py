"""Runs compute-sanitizer: kernel tests must be clean, planted mistakes must be found."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from metal_rig.gpu.build import ROOT, TESTS
from metal_rig.gpu.planted import Plant, plants
from metal_rig.gpu.runner import REPEATS_VARIABLE
from metal_rig.msl.runner import TARGET_VARIABLE

TOOLS = ("memcheck", "racecheck", "synccheck")
# One test of every kernel, with ragged sizes.
CLEAN_TESTS = (
    "test_attention_decode.py::test_lengths_around_edges",
    "test_attention_decode.py::test_window_and_sinks",
    "test_attention_decode.py::test_types_and_head_sizes",
    "test_attention_prefill.py::test_types_and_head_sizes",
    "test_attention_prefill.py::test_matrices_of_half",
    "test_attention_prefill.py::test_window_and_sinks",
    "test_kv_write.py",
    "test_linear.py::test_every_type_in_both_orders",
    "test_linear.py::test_gated_is_two_linears_and_an_activation",
    "test_row_kernels.py",
    "test_sampling.py",
    "test_shaders.py::test_rms_norm",
)
_SECONDS = 240


@dataclass(frozen=True)
class Finding:
    name: str
    tool: str
    is_right: bool
    summary: str


def _sanitize(tool: str, command: list[str]) -> str:
    environment = os.environ | {
        TARGET_VARIABLE: "nvptx",
        REPEATS_VARIABLE: "1",
        "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
    }
    full = ["compute-sanitizer", "--tool", tool, "--target-processes", "all", sys.executable]
    result = subprocess.run(
        [*full, *command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    return result.stdout + result.stderr


def _summary(report: str) -> str:
    lines = [s for s in report.splitlines() if "SUMMARY" in s or " passed" in s or " failed" in s]
    return "; ".join(s.strip("= ") for s in lines) or report[-400:]


def _is_clean(report: str) -> bool:
    summaries = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (.*)", report)
    counts = [n for s in summaries for n in re.findall(r"(\d+) (?:errors?|hazards?|warnings?)", s)]
    return bool(counts) and all(n == "0" for n in counts)


def run_plant(plant: Plant) -> Finding:
    report = _sanitize(plant.tool, ["-m", "metal_rig.gpu.planted", plant.name])
    if plant.finds is None:
        return Finding(plant.name, plant.tool, _is_clean(report), _summary(report))
    found = re.search(plant.finds, report) is not None and not _is_clean(report)
    return Finding(plant.name, plant.tool, found, _summary(report))


def run_tests(tool: str, test: str) -> Finding:
    options = ["-q", "-p", "no:cacheprovider", "--confcutdir=tests/metal_rig", "--timeout=220"]
    report = _sanitize(tool, ["-m", "pytest", *options, f"tests/metal_rig/{test}"])
    is_right = _is_clean(report) and " passed" in report and " failed" not in report
    return Finding(test, tool, is_right, _summary(report))


def sanitize(only: re.Pattern[str] | None = None, n_workers: int = 8) -> list[dict[str, Any]]:
    """All findings, or those whose names have the pattern.

    Needs compute-sanitizer on the path and a GPU.
    """

    def is_wanted(name: str) -> bool:
        return only is None or only.search(name) is not None

    tests = [t for t in CLEAN_TESTS if is_wanted(t)]
    with ThreadPoolExecutor(n_workers) as executor:
        clean = [executor.submit(run_tests, tool, t) for tool in TOOLS for t in tests]
        planted = [executor.submit(run_plant, plant) for plant in plants() if is_wanted(plant.name)]
        return [asdict(future.result()) for future in [*clean, *planted]]
