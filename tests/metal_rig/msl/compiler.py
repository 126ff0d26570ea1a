"""Compiles an unmodified .metal file: clang -E with our metal_stdlib, rewriter, clang.

As a program: ``python -m metal_rig.msl.compiler in.metal -o out [--target cpu|nvptx]
[-D NAME=VALUE] [-c INDEX=TYPE:VALUE] [-k KERNEL] [--check-accesses]``.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from metal_rig import toolchain
from metal_rig.msl.lexer import MetalSyntaxError
from metal_rig.msl.rewriter import Rewritten, rewrite
from metal_rig.msl.swizzles import swizzle_members
from metal_rig.msl.targets import CPU, TARGETS, Target

HERE = Path(__file__).parent
Constants = Mapping[int, np.generic]
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
    """Search path and dialect: the shim and nothing else."""
    generated = toolchain.cache_directory("swizzles", hashlib.sha256(swizzle_key()).hexdigest())
    for n in (2, 3, 4):
        file = generated / f"msl_swizzles_{n}.h"
        if not file.exists():
            toolchain.write_atomically(file, swizzle_members(n))
    folders = [HERE / "include" / "common", HERE / "include" / target.name, generated]
    dialect = ["-std=c++17", "-fdeclspec", "-nostdinc", "-nostdinc++"]
    return dialect + [f for folder in folders for f in ("-isystem", str(folder))]


def swizzle_key() -> bytes:
    return (HERE / "swizzles.py").read_bytes()


@functools.cache
def shim_key(target: Target) -> bytes:
    """Changes whenever anything that takes part in a compilation does, the source apart."""
    digest = hashlib.sha256(toolchain.compiler_key().encode())
    folders = [HERE / "include" / "common", HERE / "include" / target.name]
    files = [f for folder in folders for f in folder.rglob("*") if f.is_file()]
    for file in sorted([*files, *HERE.glob("*.py")]):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.digest()


def translate(
    source: Path,
    target: Target,
    macros: Mapping[str, str],
    constants: Constants | None = None,
    kernels: Sequence[str] | None = None,
) -> tuple[str, Rewritten]:
    """The C++ of a .metal file, entry points of `kernels` (None: of all) included.

    constants: values of the function constants, for targets that specialise when they compile.
    Raises MetalCompileError.
    """
    defines = [f"-D{name}={value}" for name, value in macros.items()]
    command = [toolchain.clangxx(), "-x", "c++", *include_flags(target), "-E", "-undef"]
    pre = _run([*command, "-D__x86_64__", *defines, str(source)])
    shim, own = _separate(pre.stdout)
    own = re.sub(
        r"(?m)^#pragma unroll *\(? *(\d+) *\)? *$", r"#pragma clang loop unroll_count(\1)", own
    )
    own = re.sub(r"(?m)^#pragma unroll\b.*$", "#pragma clang loop unroll(enable)", own)
    try:
        rewritten = rewrite(own, target.threadgroup_storage)
    except MetalSyntaxError as error:
        raise MetalCompileError(f"{source}: {error}") from error
    if kernels is not None:
        rewritten.exports = [e for e in rewritten.exports if e.host_name in kernels]
    if target.is_specialised_at_compile_time:
        shim += constant_functions(constants or {})
    entry = target.entry_points(rewritten)
    cpp = f'{target.prologue}{shim}\n{rewritten.text}\n# 1 "<entry points>"\n{entry}'
    return cpp, rewritten


def constant_functions(constants: Constants) -> str:
    """C++ that knows the function constants' values."""
    cases = "".join(
        f"if (index == {i}) return (T)({str(v).lower() if v.dtype == bool else v!s}); "
        for i, v in constants.items()
    )
    defined = " || ".join(f"index == {i}" for i in constants) or "false"
    return (
        f"\ntemplate <class T> constexpr T __msl_constant(uint index) {{ {cases}return T{{}}; }}\n"
        f"constexpr bool __msl_constant_defined(uint index) {{ return {defined}; }}\n"
    )


def identity(
    text: str,
    macros: Mapping[str, str],
    constants: Constants | None = None,
    kernels: Sequence[str] | None = None,
) -> bytes:
    """What a compilation is made from, the shim and the target apart."""
    values = sorted((i, v.dtype.name, str(v)) for i, v in (constants or {}).items())
    chosen = sorted(kernels) if kernels is not None else None
    return "\0".join([text, *map(repr, (sorted(macros.items()), values, chosen))]).encode()


def compile_metal(
    source: str | Path,
    *,
    macros: Mapping[str, str] | None = None,
    check_accesses: bool = False,
    optimization: str | None = None,
    warnings: bool = False,
    target: Target = CPU,
    constants: Constants | None = None,
    kernels: Sequence[str] | None = None,
) -> Path:
    """The compiled library of a .metal file or of source text, from the cache if it is there.

    check_accesses: kernels report every access of device memory, which finds data races between
    threadgroups and between dispatches; several times slower (CPU only). warnings: clang's -Wall
    counts as an error. constants and kernels: see translate(). Raises MetalCompileError.
    """
    text = source.read_text() if isinstance(source, Path) else source
    optimization = optimization or ("-O2" if target is CPU else "-O3")
    flags = [*target.flags, optimization, *(ACCESS_CHECK_FLAGS if check_accesses else ())]
    flags += (
        ["-Wall", "-Wextra", "-Werror", "-Wno-unused-function", "-Wno-unused-const-variable"]
        if warnings
        else ["-w"]
    )
    macros = dict(macros or {})
    made_from = identity(text, macros, constants, kernels) + repr(flags).encode()
    key = hashlib.sha256(shim_key(target) + made_from).hexdigest()
    library = toolchain.cache_directory("kernels") / f"{key}{target.suffix}"
    if library.exists():
        return library
    with tempfile.TemporaryDirectory() as folder:
        metal = source if isinstance(source, Path) else Path(folder, "source.metal")
        if not isinstance(source, Path):
            metal.write_text(text)
        cpp, _ = translate(metal, target, macros, constants, kernels)
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
    clang = [toolchain.clangxx(), "-x", target.language, *include_flags(target), *flags, *language]
    if target is not CPU:
        _run([*clang, "-S", str(cpp), "-o", str(library)])
        if target.finish is not None:
            library.write_text(target.finish(library.read_text()))
        return
    compiled = cpp.with_suffix(".o")
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


def parse_constant(text: str) -> tuple[int, np.generic]:
    """``0=uint:64`` as index and value."""
    index, type_, value = re.split("[=:]", text)
    types = {"uint": np.uint32, "int": np.int32, "float": np.float32}
    if type_ == "bool":
        return int(index), np.bool_(value in ("1", "true"))
    return int(index), types[type_](value)


def main(arguments: list[str] | None = None) -> int:
    """What the software Metal runs for newLibraryWithSource, among others."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument(
        "-o", dest="output", type=Path, required=True, help="where to link the result"
    )
    parser.add_argument("--target", choices=TARGETS, default="cpu")
    parser.add_argument("-D", dest="macros", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("-c", dest="constants", action="append", default=[], type=parse_constant)
    parser.add_argument("-k", dest="kernels", action="append", metavar="KERNEL")
    parser.add_argument("--check-accesses", action="store_true")
    options = parser.parse_args(arguments)
    try:
        library = compile_metal(
            options.source.read_text(),
            macros=dict(m.split("=", 1) if "=" in m else (m, "1") for m in options.macros),
            check_accesses=options.check_accesses,
            target=TARGETS[options.target],
            constants=dict(options.constants),
            kernels=options.kernels,
        )
    except MetalCompileError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    options.output.unlink(missing_ok=True)
    options.output.symlink_to(library)
    return 0


if __name__ == "__main__":
    sys.exit(main())
