"""What the compiler has to know of a machine. The shim's target headers lie in include/<name>."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from metal_rig.msl.rewriter import Rewritten


@dataclass(frozen=True)
class Target:
    """A machine that Metal source can be compiled for."""

    name: str
    threadgroup_storage: str  # declares a threadgroup variable
    flags: tuple[str, ...]  # for clang, from C++ to an object
    entry_points: Callable[[Rewritten], str]  # C++ that makes the kernels callable
    suffix: str  # of what it produces


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
