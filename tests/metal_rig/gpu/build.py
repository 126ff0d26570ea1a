"""Compiles what a GPU machine runs into one archive; needs clang, and no GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from metal_rig.gpu import kernels
from metal_rig.msl import recording
from metal_rig.msl.recording import Unit

TESTS = Path(__file__).parents[2]
ROOT = TESTS.parent
# Every test of a kernel that runs through run_kernel().
KERNEL_TESTS = tuple(
    f"tests/metal_rig/test_{name}.py"
    for name in (
        "attention_decode",
        "attention_prefill",
        "dequantize",
        "kv_write",
        "linear",
        "row_kernels",
        "sampling",
        "shaders",
    )
)


def record_tests(folder: Path) -> None:
    """Runs the kernel tests on the CPU; leaves a file for each kernel that they ask for."""
    environment = os.environ | {recording.VARIABLE: str(folder)}
    command = [sys.executable, "-m", "pytest", "-q", *KERNEL_TESTS]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


def build(units: Iterable[Unit], archive: Path) -> int:
    """Compiles each unit once and writes the archive. Returns their number."""
    unique = {unit.key: unit for unit in units}
    with ProcessPoolExecutor() as executor:
        made = dict(zip(unique, executor.map(kernels.compile_unit, unique.values()), strict=True))
    archive.parent.mkdir(parents=True, exist_ok=True)
    kernels.write_archive(archive, made)
    return len(made)
