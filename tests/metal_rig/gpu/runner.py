"""Runs a kernel on the GPU, on NumPy arrays: what metal_rig.msl.runner calls."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from metal_rig.gpu import kernels, ptx
from metal_rig.gpu.driver import Buffer, Function, synchronize
from metal_rig.msl.recording import Unit
from metal_rig.msl.runner import Argument, InvalidLaunch, Library, OrderDependence

REPEATS_VARIABLE = "METAL_RIG_REPEATS"
_ALIGNMENT = 128  # of a threadgroup argument


@dataclass(frozen=True)
class _Launch:
    """A launch that keeps its buffers alive."""

    function: Function
    arguments: tuple[Any, ...]
    buffers: tuple[Buffer | int | None, ...]

    def __call__(self) -> None:
        self.function.launch(*self.arguments)


class GpuKernel:
    """A loaded kernel."""

    def __init__(self, compiled: kernels.Compiled) -> None:
        self.compiled = compiled
        self._function = Function(compiled.image, compiled.symbol)

    def launcher(
        self,
        buffers: Sequence[Buffer | int | None],
        groups: Sequence[int],
        threads: Sequence[int],
        threadgroup_bytes: Sequence[int] = (),
    ) -> Callable[[], None]:
        """A function that launches it; it keeps the buffers alive.

        buffers: by index of the argument table; an int is an address. Raises InvalidLaunch for
        what Metal refuses.
        """
        parameters: list[ctypes.c_uint64 | ctypes.c_uint32] = []
        offset = 0
        lengths = list(threadgroup_bytes)
        for code in self.compiled.signature:
            if ptx.is_buffer(code):
                buffer = buffers[code % 256] if code % 256 < len(buffers) else None
                address = buffer.address if isinstance(buffer, Buffer) else buffer or 0
                parameters.append(ctypes.c_uint64(address))
            elif ptx.is_threadgroup(code):
                parameters.append(ctypes.c_uint32(offset))
                offset += -(-lengths.pop(0) // _ALIGNMENT) * _ALIGNMENT
        self._check(threads, sum(threadgroup_bytes))
        return _Launch(self._function, (groups, threads, parameters, offset), tuple(buffers))

    def _check(self, threads: Sequence[int], dynamic_bytes: int) -> None:
        n_bytes = self.compiled.threadgroup_bytes + dynamic_bytes
        if n_bytes > ptx.THREADGROUP_LIMIT:
            raise InvalidLaunch(f"{n_bytes} bytes of threadgroup memory, of at most 32768 bytes")
        if not 0 < int(np.prod(threads)) <= 1024:
            raise InvalidLaunch(f"{threads} threads of a threadgroup, of at most 1024 threads")


_LOADED: dict[str, GpuKernel] = {}


def load(unit: Unit) -> GpuKernel:
    """The kernel, loaded once."""
    if unit.key not in _LOADED:
        _LOADED[unit.key] = GpuKernel(kernels.find(unit))
    return _LOADED[unit.key]


def run_on_gpu(
    library: Library,
    kernel: str,
    arguments: Sequence[Argument],
    extent: Sequence[int],
    threads: Sequence[int],
    threadgroup_bytes: Sequence[int],
) -> None:
    """As run_kernel(); METAL_RIG_REPEATS times, and every time must give the same bits.

    Raises InvalidLaunch, OrderDependence, and DriverError for a kernel that failed.
    """
    if any(n % t for n, t in zip(extent, threads, strict=True)):
        raise InvalidLaunch("the GPU rig launches whole threadgroups: round the grid up")
    groups = [n // t for n, t in zip(extent, threads, strict=True)]
    loaded = load(Unit(library.text, kernel, library.constants, library.macros))
    arrays: list[npt.NDArray[Any] | None] = [
        np.frombuffer(a, np.uint8) if isinstance(a, bytes) else a for a in arguments
    ]
    buffers = [None if a is None else Buffer.of(a) for a in arrays]
    written = [code % 256 for code in loaded.compiled.signature if ptx.is_writable(code)]
    launch = loaded.launcher(buffers, groups, threads, threadgroup_bytes)
    outputs = [(a, b) for i in written if (a := arrays[i]) is not None and (b := buffers[i])]
    first: list[bytes] | None = None
    for _ in range(int(os.environ.get(REPEATS_VARIABLE, "5"))):
        for array, buffer in outputs:
            buffer.upload(array)
        launch()
        synchronize()
        results = [buffer.download(array) for array, buffer in outputs]
        bits = [result.tobytes() for result in results]
        if first is not None and bits != first:
            raise OrderDependence(f"{kernel}: two runs give different results")
        first = bits
    for (array, _), result in zip(outputs, results, strict=True):
        array[...] = result
