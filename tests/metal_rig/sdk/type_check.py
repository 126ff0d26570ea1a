"""Compiles Objective-C++ for arm64-apple-macos with ARC against the stub headers.

The clang of the ziglang package carries Apple's libc and Objective-C headers, so no SDK is needed;
the result is a true Mach-O object. As a program: ``python -m metal_rig.sdk.type_check FILE...``
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
TARGET = "aarch64-macos.14.0"
_SECONDS = 55


class TypeCheckError(Exception):
    """The source does not compile; the message is the compiler's."""


def why_not() -> str | None:
    """One sentence if the compiler is not installed, else None."""
    if importlib.util.find_spec("ziglang"):
        return None
    return "the arm64 check needs ziglang: run `pip install longbow-quarrel[metal-check]`."


def product_sources() -> list[Path]:
    """The product's Objective-C++."""
    return sorted((ROOT / "cpp" / "metal").glob("*.mm"))


def compile_for_mac(source: Path, include: Sequence[Path] = ()) -> bytes:
    """The Mach-O object of one file; include: more folders to search. Raises TypeCheckError."""
    stubs = [HERE / "foundation", HERE / "metal"]
    flags = [
        "-target",
        TARGET,
        "-std=c++20",
        "-fobjc-arc",
        "-fblocks",
        "-Wall",
        "-Wextra",
        "-Werror",
    ]
    flags += [f"-isystem{folder}" for folder in stubs]
    flags += [f"-I{folder}" for folder in [ROOT / "cpp", ROOT, *include]]
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "object.o")
        # -c, not -fsyntax-only: zig's own cache stumbles over the latter.
        command = [
            sys.executable,
            "-m",
            "ziglang",
            "c++",
            *flags,
            "-c",
            str(source),
            "-o",
            str(target),
        ]
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
        if result.returncode != 0:
            raise TypeCheckError(result.stderr.strip())
        return target.read_bytes()


def main(arguments: list[str]) -> int:
    """Checks files (default: the product's); returns the number that fail."""
    n_bad = 0
    for file in [Path(a) for a in arguments] or product_sources():
        try:
            compile_for_mac(file)
            print(f"{file}: right")
        except TypeCheckError as error:
            n_bad += 1
            print(error)
    return n_bad


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
