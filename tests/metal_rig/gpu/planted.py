"""Mistakes that compute-sanitizer has to find, and correct kernels that it has to pass.

``compute-sanitizer --tool TOOL python -m metal_rig.gpu.planted NAME`` runs one.
"""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metal_rig import attention_runner
from metal_rig.attention_runner import Batch, Shape, random_sequence, run_decode, run_prefill
from metal_rig.gpu.runner import REPEATS_VARIABLE
from metal_rig.msl.recording import Unit
from metal_rig.msl.runner import TARGET_VARIABLE, Argument, Library, run_kernel
from metal_rig.shaders import SHADERS, shader_source

PLANTED = Path(__file__).parents[1] / "testdata" / "planted.metal"
SHAPE = Shape(head_dim=128, n_heads=8, block_size=8, partition=64, round=32)
# Lanes of floats, and matrices that take other numbers of tokens of K and of V at once.
SHAPES = {
    "attention_decode": (SHAPE, dataclasses.replace(SHAPE, k_type="q4_0", v_type="q8_0")),
    "attention_prefill": (SHAPE,),
}
BARRIER = re.compile(r"\b(?:threadgroup|simdgroup)_barrier\(")


@dataclass(frozen=True)
class Plant:
    """A run of the sanitizer. finds: what its report must say, None for a clean one."""

    name: str
    tool: str
    finds: str | None
    units: tuple[Unit, ...]
    run: Callable[[], None]


def run_attention(kernel: str, text: str | None = None, table_error: bool = False) -> None:
    """The kernel on ragged sequences, with another source or a block table that is wrong."""
    is_decode = kernel == "attention_decode"
    for shape in SHAPES[kernel]:
        sequences = [random_sequence(shape, n, 1 if is_decode else 20, n) for n in (150, 60)]
        batch = Batch(shape, sequences)
        if table_error:
            batch.tables[0, 1] = batch.tables.max() + 1
        if text is not None:
            library = Library(text, shape.constants)
            attention_runner.library = lambda *_, made=library: made  # type: ignore[assignment]
        run_decode(batch) if is_decode else run_prefill(batch, "half")


def attention_units(kernel: str, text: str) -> tuple[Unit, ...]:
    names = {
        "attention_decode": ("attention_decode", "attention_decode_reduce"),
        "attention_prefill": ("attention_prefill_half_128",),
    }[kernel]
    return tuple(
        Unit(text, name, shape.constants, {}) for shape in SHAPES[kernel] for name in names
    )


def without_barrier(source: str, offset: int) -> str:
    end = source.index(";", offset)
    return source[:offset] + "(void)0" + source[end:]


def barrier_plants(kernel: str) -> Iterator[Plant]:
    source = shader_source(SHADERS / f"{kernel}.metal")
    # Behind the headers: not every kernel uses all that they have.
    start = source.rindex(f' "{kernel}.metal"')
    for i, match in enumerate(BARRIER.finditer(source, start)):
        text = without_barrier(source, match.start())
        yield Plant(
            f"{kernel}-barrier-{i}",
            "racecheck",
            "Race reported|hazard",
            attention_units(kernel, text),
            lambda text=text: run_attention(kernel, text),  # type: ignore[misc]
        )


def kernel_plant(kernel: str, tool: str, finds: str, n_threads: int, *sizes: int) -> Plant:
    macros = {"MSL_CHECK": "1"} if tool == "memcheck" else {}
    text = PLANTED.read_text()

    def run() -> None:
        arguments: list[Argument] = [np.zeros(n, np.uint32) for n in sizes]
        library = Library(text, macros=macros)
        run_kernel(library, kernel, arguments, threadgroups=[1], threads=[n_threads])

    return Plant(kernel, tool, finds, (Unit(text, kernel, {}, macros),), run)


def plants() -> list[Plant]:
    found = [
        kernel_plant("missing_barrier", "racecheck", "Race reported|hazard", 128, 128),
        kernel_plant("divergent_barrier", "synccheck", "Barrier error|divergent", 96, 96),
        kernel_plant("write_past_end", "memcheck", "Invalid __global__ write", 64, 64),
        kernel_plant("read_past_end", "memcheck", "Invalid __global__ read", 32, 32, 64),
        kernel_plant("divergent_simd", "memcheck", "trap|illegal instruction", 64, 64),
        kernel_plant("early_return", "memcheck", "trap|illegal instruction", 32, 32),
    ]
    for kernel in ("attention_decode", "attention_prefill"):
        units = attention_units(kernel, shader_source(SHADERS / f"{kernel}.metal"))
        for tool in ("racecheck", "memcheck", "synccheck"):
            run = lambda kernel=kernel: run_attention(kernel)  # type: ignore[misc] # noqa: E731
            found.append(Plant(f"{kernel}-{tool}", tool, None, units, run))
        wrong = lambda kernel=kernel: run_attention(kernel, None, True)  # type: ignore[misc] # noqa: E731
        name = f"{kernel}-block-table"
        found.append(Plant(name, "memcheck", "Invalid __global__ read", units, wrong))
        found += barrier_plants(kernel)
    return found


def main() -> None:
    os.environ |= {TARGET_VARIABLE: "nvptx", REPEATS_VARIABLE: "1"}
    [plant] = [p for p in plants() if p.name == sys.argv[1]]
    plant.run()


if __name__ == "__main__":
    main()
