"""What the compiler has to know of a machine. The shim's target headers lie in include/<name>."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from metal_rig.msl.products import pair_products
from metal_rig.msl.rewriter import Rewritten


@dataclass(frozen=True)
class Target:
    """A machine that Metal source can be compiled for."""

    name: str
    threadgroup_storage: str  # declares a threadgroup variable
    language: str  # for clang
    flags: tuple[str, ...]  # for clang, from C++ to an object
    entry_points: Callable[[Rewritten], str]  # C++ that makes the kernels callable
    suffix: str  # of what it produces
    prologue: str = ""  # in front of all C++
    is_specialised_at_compile_time: bool = False
    finish: Callable[[str], str] | None = None  # rewrites text that clang made


def _cpu_entry_points(rewritten: Rewritten) -> str:
    lines, rows = [], []
    for i, export in enumerate(rewritten.exports):
        slots = rewritten.kernels[export.base_name]
        codes = ", ".join(s.code for s in slots)
        signature = ", ".join([*(s.signature for s in slots), "-1"])
        lines.append(f"static const int __msl_signature_{i}[] = {{{signature}}};")
        lines.append(
            f"static void __msl_entry_{i}(const __msl_lane* lane) "
            f"{{ __msl_call<{codes}>::run(&{export.expression}, lane); }}"
        )
        rows.append(f'  {{"{export.host_name}", __msl_entry_{i}, __msl_signature_{i}}},')
    visible = 'extern "C" __attribute__((visibility("default")))'
    return "\n".join(
        [
            *lines,
            f"{visible} const __msl_kernel __msl_kernels[] = {{",
            *rows,
            "  {nullptr, nullptr, nullptr}};",
            f"{visible} const unsigned __msl_n_kernels = {len(rows)};\n",
        ]
    )


CPU = Target(
    name="cpu",
    # All lanes of a threadgroup are fibers of one OS thread, so thread-local is threadgroup memory.
    threadgroup_storage="static thread_local",
    language="c++",
    flags=(
        "-march=native",
        "-fPIC",
        "-fvisibility=hidden",
        # The runtime walks the frames to tell one barrier from another.
        "-fno-omit-frame-pointer",
        "-fno-optimize-sibling-calls",
    ),
    entry_points=_cpu_entry_points,
    suffix=".so",
)


def symbol_of(host_name: str) -> str:
    """The name of a kernel in PTX."""
    return "k_" + re.sub(r"\W", "_", host_name)


def _nvptx_entry_points(rewritten: Rewritten) -> str:
    lines = ['extern "C" __attribute__((shared, aligned(128))) char __msl_dynamic[];']
    for export in rewritten.exports:
        slots = rewritten.kernels[export.base_name]
        symbol = symbol_of(export.host_name)
        parameters, body = [], []
        for i, slot in enumerate(slots):
            if slot.kind == "buffer":
                parameters.append(f"char* p{i}")
                body.append(f"lane.buffers[{slot.index}] = p{i};")
            elif slot.kind == "threadgroup":
                parameters.append(f"uint p{i}")
                body.append(f"lane.threadgroup_memory[{slot.index}] = __msl_dynamic + p{i};")
        signature = ", ".join([*(s.signature for s in slots), "-1"])
        codes = ", ".join(s.code for s in slots)
        lines += [
            f'extern "C" __attribute__((device, used)) const int {symbol}_signature[] = '
            f"{{{signature}}};",
            f'extern "C" __attribute__((global)) void {symbol}({", ".join(parameters)}) {{ '
            f"__msl_lane lane; {' '.join(body)} "
            f"__msl_call<{codes}>::run(&{export.expression}, &lane); }}",
        ]
    return "\n".join([*lines, ""])


NVPTX = Target(
    name="nvptx",
    threadgroup_storage="static __attribute__((shared))",
    language="cuda",
    flags=(
        "--cuda-device-only",
        "--cuda-gpu-arch=sm_90",
        "-nocudainc",
        "-nocudalib",
        "-fno-math-errno",
        "-gline-tables-only",  # compute-sanitizer names lines of the .metal file
        # Metal's compiler inlines everything; a call would make its pointers generic.
        "-mllvm",
        "-inline-threshold=1000000",
    ),
    entry_points=_nvptx_entry_points,
    suffix=".ptx",
    # Every function may be used on the device without being marked for it.
    prologue="#pragma clang force_cuda_host_device begin\n",
    is_specialised_at_compile_time=True,
    finish=pair_products,
)
TARGETS = {target.name: target for target in (CPU, NVPTX)}
