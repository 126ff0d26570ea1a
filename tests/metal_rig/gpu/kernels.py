"""Compiled kernels for the GPU: made on the spot, or from an archive that was built elsewhere."""

from __future__ import annotations

import functools
import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

from metal_rig import toolchain
from metal_rig.gpu import assembler, ptx
from metal_rig.msl.compiler import compile_metal
from metal_rig.msl.recording import Unit
from metal_rig.msl.targets import NVPTX, symbol_of

ARCHIVE_VARIABLE = "METAL_RIG_KERNELS"


@dataclass(frozen=True)
class Compiled:
    """A kernel that a driver can load."""

    symbol: str
    signature: tuple[int, ...]
    threadgroup_bytes: int  # of its variables
    image: bytes  # a cubin, or PTX

    def header(self) -> str:
        values = {"symbol": self.symbol, "signature": self.signature}
        return json.dumps(values | {"threadgroup_bytes": self.threadgroup_bytes})


def compile_unit(unit: Unit) -> Compiled:
    """Raises MetalCompileError, or RuntimeError where ptxas refuses."""
    path = compile_metal(
        unit.text,
        macros=unit.macros,
        target=NVPTX,
        constants=unit.constants,
        kernels=[unit.kernel],
    )
    symbol = symbol_of(unit.kernel)
    [kernel] = [k for k in ptx.parse(path.read_text()) if k.symbol == symbol]
    image = assembler.assemble(path)[0] if assembler.ptxas() else path.read_bytes()
    return Compiled(symbol, tuple(kernel.signature), kernel.threadgroup_bytes, image)


def write_archive(file: Path, compiled: dict[str, Compiled]) -> None:
    """Kernels by their units' keys."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, kernel in compiled.items():
            archive.writestr(f"{key}.json", kernel.header())
            archive.writestr(f"{key}.bin", kernel.image)


@functools.cache
def _archive(file: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(file)


def find(unit: Unit) -> Compiled:
    """The unit's kernel, compiled here if no archive has it. Raises KeyError without clang."""
    file = os.environ.get(ARCHIVE_VARIABLE)
    if file is None:
        return compile_unit(unit)
    archive = _archive(file)
    try:
        header = json.loads(archive.read(f"{unit.key}.json"))
    except KeyError:
        if not toolchain.missing_packages(toolchain.MSL_PACKAGES):
            return compile_unit(unit)
        raise KeyError(
            f"[gpu] {unit.kernel} with {dict(unit.constants)} is not in {file}: build it again"
        ) from None
    return Compiled(
        header["symbol"],
        tuple(header["signature"]),
        header["threadgroup_bytes"],
        archive.read(f"{unit.key}.bin"),
    )
