"""Without a GPU: every kernel compiles to PTX that a GPU can run well."""

from __future__ import annotations

from pathlib import Path

import pytest

from metal_rig import toolchain
from metal_rig.gpu import assembler, catalogue, ptx
from metal_rig.gpu.catalogue import Specialisation
from metal_rig.msl.compiler import compile_metal
from metal_rig.msl.targets import NVPTX, symbol_of
from metal_rig.shaders import SHADERS, shader_files, shader_source

PACKAGES = toolchain.MSL_PACKAGES


def compiled(text: str, specialisation: Specialisation | None = None) -> list[ptx.Kernel]:
    """The kernels, after ptxas has seen them where there is one."""
    path = compile_metal(
        text,
        target=NVPTX,
        constants=specialisation.constants if specialisation else None,
        kernels=specialisation.kernels if specialisation else None,
    )
    if assembler.ptxas() is not None:
        usage = assembler.assemble(path)[1]
        spilling = {s: u for s, u in usage.items() if max(u.spill_bytes, u.stack_bytes) > 0}
        assert not spilling
    return ptx.parse(path.read_text())


def check(specialisation: Specialisation) -> None:
    kernels = compiled(shader_source(SHADERS / f"{specialisation.shader}.metal"), specialisation)
    assert [k.symbol for k in kernels] == [symbol_of(k) for k in specialisation.kernels]
    found = []
    for name, kernel in zip(specialisation.kernels, kernels, strict=True):
        found += ptx.problems(
            kernel, specialisation.promises.get(name, ()), specialisation.dynamic_bytes
        )
    assert found == []


@pytest.mark.parametrize("specialisation", catalogue.everyday(), ids=lambda s: s.name)
def test_compiles_to_good_ptx(specialisation: Specialisation) -> None:
    check(specialisation)


@pytest.mark.slow
@pytest.mark.parametrize("specialisation", catalogue.exhaustive(), ids=lambda s: s.name)
def test_every_specialisation_compiles_to_good_ptx(specialisation: Specialisation) -> None:
    check(specialisation)


def test_the_catalogue_knows_every_shader() -> None:
    known = {s.shader for s in catalogue.everyday()}
    assert known == {file.stem for file in shader_files()}


HEAD = "#include <metal_stdlib>\nusing namespace metal;\n"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "kernel void k(device float4* x [[buffer(0)]], uint i [[thread_position_in_grid]]) {"
            " x[i] = float4(((device packed_float4*)x)[i + 64]) * 2.0f; }",
            "loads of buffer 0 have [4] bytes",
        ),
        (
            "kernel void k(device float4* x [[buffer(0)]], uint i [[thread_index_in_threadgroup]])"
            " { threadgroup float4 shared[2049]; shared[i] = x[i] * 2.0f;"
            " threadgroup_barrier(mem_flags::mem_threadgroup); x[i] = shared[2048 - i]; }",
            "32784 bytes of threadgroup memory",
        ),
        (
            "__attribute__((noinline)) static float4 read(device const float4* x) {"
            " return *x * 2.0f; }"
            "kernel void k(device float4* x [[buffer(0)]], uint i [[thread_position_in_grid]]) {"
            " threadgroup float4 shared[32]; shared[i] = x[i] * 2.0f;"
            " threadgroup float4* p = x[0].x > 0.0f ? shared : (threadgroup float4*)x;"
            " x[i] = p[i]; }",
            "generic access",
        ),
    ],
    ids=["narrow", "large", "generic"],
)
def test_what_is_wrong_is_found(source: str, message: str) -> None:
    [kernel] = compiled(HEAD + source)
    assert message in "\n".join(ptx.problems(kernel, (ptx.Promise(0, 16, 16),)))


def test_spills_are_read_from_the_assembler_s_report() -> None:
    report = (
        "ptxas info    : Function properties for k_x\n"
        "    48 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads\n"
        "ptxas info    : Used 255 registers, used 1 barriers, 128 bytes smem\n"
    )
    assert assembler.usage(report) == {"k_x": assembler.Usage(255, 48, 28)}


@pytest.mark.parametrize(
    ("free", "in_128", "in_168", "chosen"),
    [
        ((128, 0), None, None, "free"),
        ((133, 0), (128, 0), None, "128"),
        ((133, 0), (128, 8), None, "free"),
        ((200, 0), (128, 8), (168, 0), "168"),
        ((200, 0), (128, 8), (168, 4), "free"),
    ],
)
def test_the_smallest_budget_of_registers_without_spills(
    monkeypatch: pytest.MonkeyPatch,
    free: tuple[int, int],
    in_128: tuple[int, int] | None,
    in_168: tuple[int, int] | None,
    chosen: str,
) -> None:
    runs = {(): free, ("-maxrregcount=128",): in_128, ("-maxrregcount=168",): in_168}

    def assemble(_: Path, *options: str) -> tuple[bytes, dict[str, assembler.Usage]]:
        usage = runs[options]
        assert usage is not None, "asked for what need not be known"
        name = options[0].partition("=")[2] if options else "free"
        return name.encode(), {"k": assembler.Usage(usage[0], usage[1], usage[1])}

    monkeypatch.setattr(assembler, "_assemble", assemble)
    assert assembler.assemble(Path("any"))[0].decode() == chosen
