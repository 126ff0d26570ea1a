"""Address-space lint: .metal source as C++ for OpenCL, which has Metal's address spaces.

The CPU compilation in ``msl`` erases address spaces; here they are real, so that passing a
``device`` pointer where ``threadgroup`` is declared is found. Two rules that clang cannot check are
checked on tokens: every pointer and reference names its address space, and words that Metal does
not have do not appear.

As a program: ``python -m metal_rig.lint.lint [FILE...]`` (default: all shaders).
"""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from metal_rig import toolchain
from metal_rig.msl.lexer import Token, previous_index, significant, tokenize
from metal_rig.shaders import shader_files, shader_source

HERE = Path(__file__).parent
_SCALARS = [
    "bool",
    "char",
    "uchar",
    "short",
    "ushort",
    "int",
    "uint",
    "long",
    "ulong",
    "half",
    "bfloat",
    "float",
]
_VECTORS = [f"{scalar}{n}" for scalar in _SCALARS for n in (2, 3, 4)]
_SIZED = [f"{sign}int{bits}_t" for sign in ("", "u") for bits in (8, 16, 32, 64)]
_BUILTIN_TYPES = {*_SCALARS, *_VECTORS, *_SIZED, "size_t", "void", "auto"}
_SPACES = {"device", "constant", "threadgroup", "thread"}
# Words of C++ that the Metal Shading Language does not have.
_FORBIDDEN = {
    "asm", "catch", "delete", "double", "dynamic_cast", "goto", "new", "std", "thread_local",
    "throw", "try", "typeid", "virtual",
}  # fmt: skip
# Ordinary names in Metal, keywords in OpenCL.
_OPENCL_WORDS = "local|global|private|generic|pipe|read_only|write_only|read_write|event_t"
_EXTENSIONS = "-__opencl_c_generic_address_space,-__opencl_c_pipes,-__opencl_c_device_enqueue,"
_EXTENSIONS += "+cl_khr_fp16,+cl_khr_fp64,+__cl_clang_function_pointers"


def to_opencl(source: str) -> str:
    """The source as C++ for OpenCL, line by line the same."""
    source = re.sub(r"(?m)^ *#include <metal\w*>|^ *#pragma unroll.*$", "", source)
    source = re.sub(rf"\b({_OPENCL_WORDS})\b", r"\1_", source)
    source = re.sub(
        r"\bconstant\s+(\w+)\s+(\w+)\s*\[\[\s*function_constant[^\]]*\]\]\s*;",
        r"constant \1 \2 = (\1)1;",
        source,
    )
    source = re.sub(r"\bis_function_constant_defined\(\w+\)", "true", source)
    source = re.sub(r"\[\[[^\]]*\]\]", "", source)
    source = re.sub(r"\b(\d+\.?\d*(?:e[+-]?\d+)?)h\b", r"((half)\1f)", source)
    # Local threadgroup variables are allowed in kernels only, and kernels may not be templates:
    # so kernels become functions and their variables references.
    source = re.sub(
        r"\bthreadgroup\s+([\w:]+(?:<[^;]*?>)?)\s+(\w+)\s*((?:\[[^\]]*\]\s*)*);",
        r"threadgroup \1 (&\2)\3 = *(threadgroup \1 (*)\3)(threadgroup char*)0;",
        source,
    )
    vectors = "|".join(_VECTORS)
    return re.sub(rf"\b({vectors})\(", r"make_\1(", source)


def compile_errors(source: str) -> list[str]:
    """clang's errors, as ``file:line:column: error: ...``."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "source.clcpp")
        file.write_text(f'#include "metal_lint.h"\n#line 1 "source.metal"\n{to_opencl(source)}')
        language = ["-x", "clcpp", "-cl-std=CLC++2021", "-target", "spir64", "-fsyntax-only"]
        options = ["-Xclang", f"-cl-ext={_EXTENSIONS}", "-cl-single-precision-constant"]
        options += ["-cl-no-stdinc", "-flax-vector-conversions=none", "-ferror-limit=0", "-w"]
        result = subprocess.run(
            [toolchain.clangxx(), *language, *options, f"-I{HERE}", str(file)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    errors = [line for line in result.stderr.splitlines() if " error: " in line]
    if result.returncode != 0 and not errors:
        return [result.stderr.strip()]
    return errors


def _declared_types(tokens: list[Token]) -> set[str]:
    """Names that the source makes types: structs, enums, aliases and template parameters."""
    names = set(_BUILTIN_TYPES)
    words = significant(tokens)
    for before, name in itertools.pairwise(words):
        if name.kind == "word" and before.text in ("struct", "class", "enum", "typename", "using"):
            names.add(name.text)
    return names


def _numbered(tokens: list[Token]) -> Iterator[tuple[int, Token, str]]:
    """Index, token and ``file:line`` of every token; line markers are followed."""
    file, line = "source.metal", 1
    for i, token in enumerate(tokens):
        yield i, token, f"{file}:{line}"
        marker = re.match(r'# (\d+) "(.*?)"', token.text) if token.kind == "mark" else None
        if marker:
            line, file = int(marker[1]), marker[2]
        else:
            line += token.text.count("\n")


def token_errors(source: str) -> list[str]:
    """Pointers and references without an address space, and words that Metal does not have."""
    tokens = tokenize(_preprocessed(source))
    types = _declared_types(tokens)
    errors = []
    for i, token, place in _numbered(tokens):
        if token.kind == "word" and token.text in _FORBIDDEN:
            errors.append(f"{place}: error: Metal has no '{token.text}'")
        if token.text in ("*", "&") and _is_unqualified(tokens, i, types):
            errors.append(f"{place}: error: '{token.text}' without an address space")
    return errors


def _is_unqualified(tokens: list[Token], i: int, types: set[str]) -> bool:
    """Whether the * or & at i belongs to a type that names no address space."""
    last = previous_index(tokens, i - 1)
    while last >= 0 and tokens[last].text in ("const", "volatile"):
        last = previous_index(tokens, last - 1)
    if last < 0 or tokens[last].text not in types:
        return False
    words = set()
    while last >= 0 and tokens[last].text not in ("(", ")", ",", ";", "{", "}", "<", "="):
        words.add(tokens[last].text)
        last = previous_index(tokens, last - 1)
    return not words & _SPACES


def _preprocessed(source: str) -> str:
    """Without comments and without what the host alone sees; Metal's own headers left out."""
    source = re.sub(r"(?m)^ *#include <metal\w*>", "", source)
    command = [
        toolchain.clangxx(),
        "-E",
        "-undef",
        "-nostdinc",
        "-x",
        "c++",
        "-D__METAL_VERSION__=310",
    ]
    return subprocess.run(
        [*command, "-"],
        input=f'#line 1 "source.metal"\n{source}',
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    ).stdout


def lint(source: str) -> list[str]:
    """Everything that is wrong with one shader's source string."""
    return [*token_errors(source), *compile_errors(source)]


def main(arguments: list[str]) -> int:
    """Lints files; prints what is wrong and returns the number of files with errors."""
    n_bad = 0
    for file in [Path(a) for a in arguments] or shader_files():
        errors = lint(shader_source(file))
        n_bad += bool(errors)
        print("\n".join(errors or [f"{file}: right"]))
    return n_bad


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
