"""ptxas, where it is installed: machine code, and what it says about registers."""

from __future__ import annotations

import functools
import importlib.util
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

_SECONDS = 300
# Registers that a thread may have where four and three threadgroups of 128 threads, as most kernels
# have them here, shall share the 65,536 of a core. Left alone ptxas takes what suits one of them.
BUDGETS = (128, 168)


@dataclass(frozen=True)
class Usage:
    """What a kernel needs of the GPU."""

    registers: int
    stack_bytes: int
    spill_bytes: int


@functools.cache
def ptxas() -> str | None:
    """The assembler on the path, or the one of a wheel such as nvidia-cuda-nvcc."""
    if found := shutil.which("ptxas"):
        return found
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if files := sorted(Path(folder).glob("*/bin/ptxas")):
            return str(files[-1])
    return None


def assemble(ptx: Path) -> tuple[bytes, dict[str, Usage]]:
    """The cubin and the usage of every kernel: of code without a budget of registers or, where that
    takes more, of the smallest budget in which nothing spills. Raises RuntimeError for what ptxas
    refuses."""
    free = _assemble(ptx)
    for budget in BUDGETS:
        if max((u.registers for u in free[1].values()), default=0) <= budget:
            break
        bound = _assemble(ptx, f"-maxrregcount={budget}")
        if not any(u.stack_bytes or u.spill_bytes for u in bound[1].values()):
            return bound
    return free


def _assemble(ptx: Path, *options: str) -> tuple[bytes, dict[str, Usage]]:
    program = ptxas()
    if program is None:
        raise RuntimeError("[gpu] no ptxas: `pip install nvidia-cuda-nvcc` brings one")
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "out.cubin")
        command = [program, "-arch=sm_90", "-lineinfo", "-v", *options, str(ptx), "-o", str(cubin)]
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
        if result.returncode != 0:
            raise RuntimeError(f"[gpu] ptxas: {result.stderr.strip()}")
        return cubin.read_bytes(), usage(result.stdout + result.stderr)


def usage(report: str) -> dict[str, Usage]:
    """What `ptxas -v` printed, by symbol."""
    found = {}
    for part in report.split("Function properties for ")[1:]:
        symbol = part.split()[0]
        stack, stores, loads = map(int, re.findall(r"(\d+) bytes (?:stack|spill)", part)[:3])
        registers = re.search(r"Used (\d+) registers", part)
        if registers:
            found[symbol] = Usage(int(registers[1]), stack, stores + loads)
    return found
