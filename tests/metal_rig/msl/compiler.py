"""Compiles an unmodified .metal file: clang -E with our metal_stdlib, rewriter, clang.

As a program: ``python -m metal_rig.msl.compiler in.metal -o out.so [-D NAME=VALUE] [--check]``.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from metal_rig import toolchain
from metal_rig.msl.lexer import MetalSyntaxError
from metal_rig.msl.rewriter import Rewritten, rewrite
from metal_rig.msl.swizzles import swizzle_members
from metal_rig.msl.targets import CPU, Target

HERE = Path(__file__).parent
# Kernels compiled to report their accesses: wider or vectorised accesses would not be reported.
ACCESS_CHECK_FLAGS = (
    "-fsanitize=thread",
    "-fno-vectorize",
    "-fno-slp-vectorize",
    "-mprefer-vector-width=128",
    "-mllvm",
    "-tsan-instrument-func-entry-exit=0",
    "-mllvm",
    "-tsan-instrument-atomics=0",
)
_COMPILE_SECONDS = 120


class MetalCompileError(Exception):
    """The source is not valid: the message is the compiler's, with lines of the .metal file."""


def include_flags(target: Target) -> list[str]:
    """Language and search path: the shim and nothing else."""
    generated = toolchain.cache_directory("swizzles", hashlib.sha256(swizzle_key()).hexdigest())
    for n in (2, 3, 4):
        file = generated / f"msl_swizzles_{n}.h"
        if not file.exists():
            toolchain.write_atomically(file, swizzle_members(n))
    folders = [HERE / "include" / "common", HERE / "include" / target.name, generated]
    language = ["-x", "c++", "-std=c++17", "-fdeclspec", "-nostdinc", "-nostdinc++"]
    return language + [f for folder in folders for f in ("-isystem", str(folder))]


def swizzle_key() -> bytes:
    return (HERE / "swizzles.py").read_bytes()


def shim_key(target: Target) -> bytes:
    """Changes whenever anything that takes part in a compilation does, the source apart."""
    digest = hashlib.sha256(toolchain.compiler_key().encode())
    folders = [HERE / "include" / "common", HERE / "include" / target.name]
    files = [f for folder in folders for f in folder.rglob("*") if f.is_file()]
    for file in sorted([*files, *HERE.glob("*.py")]):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.digest()


def translate(source: Path, target: Target, macros: Mapping[str, str]) -> tuple[str, Rewritten]:
    """The C++ of a .metal file, entry points included. Raises MetalCompileError."""
    defines = [f"-D{name}={value}" for name, value in macros.items()]
    command = [toolchain.clangxx(), *include_flags(target), "-E", "-undef", "-D__x86_64__"]
    pre = _run([*command, *defines, str(source)])
    shim, own = _separate(pre.stdout)
    own = re.sub(
        r"(?m)^#pragma unroll *\(? *(\d+) *\)? *$", r"#pragma clang loop unroll_count(\1)", own
    )
    own = re.sub(r"(?m)^#pragma unroll\b.*$", "#pragma clang loop unroll(enable)", own)
    try:
        rewritten = rewrite(own, target.threadgroup_storage)
    except MetalSyntaxError as error:
        raise MetalCompileError(f"{source}: {error}") from error
    entry = target.entry_points(rewritten)
    return f'{shim}\n{rewritten.text}\n# 1 "<entry points>"\n{entry}', rewritten


def compile_metal(
    source: str | Path,
    *,
    macros: Mapping[str, str] | None = None,
    check_accesses: bool = False,
    optimization: str = "-O2",
    warnings: bool = False,
    target: Target = CPU,
) -> Path:
    """The compiled library of a .metal file or of source text, from the cache if it is there.

    check_accesses: kernels report every access of device memory, which finds data races between
    threadgroups and between dispatches; several times slower. warnings: clang's -Wall counts as an
    error. Raises MetalCompileError.
    """
    text = source.read_text() if isinstance(source, Path) else source
    flags = [*target.flags, optimization, *(ACCESS_CHECK_FLAGS if check_accesses else ())]
    flags += (
        ["-Wall", "-Wextra", "-Werror", "-Wno-unused-function", "-Wno-unused-const-variable"]
        if warnings
        else ["-w"]
    )
    macros = dict(macros or {})
    identity = "\0".join([text, repr(sorted(macros.items())), *flags]).encode()
    key = hashlib.sha256(shim_key(target) + identity).hexdigest()
    library = toolchain.cache_directory("kernels") / f"{key}{target.suffix}"
    if library.exists():
        return library
    with tempfile.TemporaryDirectory() as folder:
        metal = source if isinstance(source, Path) else Path(folder, "source.metal")
        if not isinstance(source, Path):
            metal.write_text(text)
        cpp, _ = translate(metal, target, macros)
        Path(folder, "kernels.cpp").write_text(cpp)
        _compile_cpp(Path(folder, "kernels.cpp"), Path(folder, "out"), target, flags)
        toolchain.move_atomically(Path(folder, "out"), library)
    return library


def _compile_cpp(cpp: Path, library: Path, target: Target, flags: list[str]) -> None:
    language = [
        "-ffp-contract=off",
        "-fno-exceptions",
        "-fno-rtti",
        "-Wno-reserved-user-defined-literal",
        "-ferror-limit=30",
    ]
    compiled = cpp.with_suffix(".o")
    clang = [toolchain.clangxx(), *include_flags(target), *flags, *language]
    _run([*clang, "-c", str(cpp), "-o", str(compiled)])
    # Linked by itself, so that -fsanitize=thread does not bring its own runtime.
    _run([toolchain.clangxx(), "-shared", str(compiled), "-o", str(library), "-lm"])


def _separate(preprocessed: str) -> tuple[str, str]:
    """The shim's text passes through untouched; only the rest is rewritten."""
    shim: list[str] = []
    own: list[str] = []
    inside = False
    for line in preprocessed.splitlines(keepends=True):
        marker = re.match(r'# \d+ "(.*?)"(.*)', line)
        if marker:
            inside = " 3" in marker[2]  # clang's mark of a system header
        (shim if inside else own).append(line)
    return "".join(shim), "".join(own)


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=_COMPILE_SECONDS, check=False
    )
    if result.returncode != 0:
        raise MetalCompileError(result.stderr.strip())
    return result


def main(arguments: list[str] | None = None) -> int:
    """What the software Metal runs for newLibraryWithSource."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument(
        "-o", dest="output", type=Path, required=True, help="where to link the library"
    )
    parser.add_argument("-D", dest="macros", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--check-accesses", action="store_true")
    options = parser.parse_args(arguments)
    macros = dict(m.split("=", 1) if "=" in m else (m, "1") for m in options.macros)
    try:
        library = compile_metal(
            options.source.read_text(), macros=macros, check_accesses=options.check_accesses
        )
    except MetalCompileError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    options.output.unlink(missing_ok=True)
    options.output.symlink_to(library)
    return 0


if __name__ == "__main__":
    sys.exit(main())
