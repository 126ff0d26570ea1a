"""Planted address-space mistakes are found, each in its line, and nothing else is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from metal_rig import toolchain
from metal_rig.lint.lint import compile_errors, lint, token_errors
from metal_rig.shaders import shader_files, shader_source

PACKAGES = toolchain.MSL_PACKAGES
PLANTED = (Path(__file__).parent / "testdata" / "address_spaces.metal").read_text()


def lines_of(errors: list[str]) -> set[int]:
    return {int(m[1]) for e in errors if (m := re.match(r"source\.metal:(\d+)", e))}


def test_planted_mistakes_are_found() -> None:
    planted = {n for n, line in enumerate(PLANTED.splitlines(), start=1) if "// BAD" in line}
    errors = lint(PLANTED)
    assert lines_of(errors) == planted, "\n".join(errors)


def test_the_rest_is_right() -> None:
    right = "\n".join("" if "// BAD" in line else line for line in PLANTED.splitlines())
    assert lint(right) == []


@pytest.mark.parametrize("file", shader_files(), ids=lambda f: f.stem)
def test_shaders_are_right(file: Path) -> None:
    assert lint(shader_source(file)) == []


@pytest.mark.parametrize(
    ("source", "n_errors"),
    [
        ("float f(const float* p);", 1),
        ("float f(thread const float* p);", 0),
        ("float f(device const float* const* p);", 0),
        ("float y = x * 2 & mask; uint z = uint(x) * y;", 0),
        ("struct S { float x; }; void f(S& s);", 1),
        ("struct S { float x; }; void f(thread S& s, constant S& c);", 0),
        ("template <typename T> void f(T* p);", 1),
        ("device float* p; float x = *(float*)p;", 1),
        ("#ifndef __METAL_VERSION__\n#include <x>\nstd::y z;\n#endif\nfloat x;", 0),
        ("// double const float* p\nfloat x;", 0),
        ("/* new\n */ double x;", 1),
        ("bool b = x && y;", 0),
    ],
)
def test_token_rules(source: str, n_errors: int) -> None:
    assert len(token_errors(source)) == n_errors


def test_lines_of_included_files_are_named() -> None:
    errors = token_errors('#line 7 "common.h"\nfloat f(const float* p);\n')
    assert errors == ["common.h:7: error: '*' without an address space"]


def test_a_file_that_does_not_parse_is_an_error() -> None:
    assert compile_errors("kernel void k( {")
