"""Runs kernels of compiled libraries on NumPy arrays.

On the CPU, or on an NVIDIA GPU where METAL_RIG_TARGET is "nvptx" (metal_rig.gpu).
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from metal_rig import toolchain
from metal_rig.msl import recording
from metal_rig.msl.compiler import compile_metal

RUNTIME = Path(__file__).parent / "runtime"
TARGET_VARIABLE = "METAL_RIG_TARGET"
N_BUFFERS = 31  # argument table of a compute encoder
Argument = npt.NDArray[Any] | bytes | None
Order = Literal["forward", "reversed", "both"]


class KernelError(Exception):
    """A kernel broke a rule; the subclass says which."""


class InvalidLaunch(KernelError):
    """Metal refuses such a launch."""


class DivergentFlow(KernelError):
    """A barrier or simdgroup function was not reached by all of its threads."""


class OutOfBounds(KernelError):
    """An access outside of all buffers, or a write to a read-only one."""


class KernelTimeout(KernelError):
    """The kernel did not end in time."""


class KernelTrap(KernelError):
    """Division by zero, or a use that the shim does not support."""


class DataRace(KernelError):
    """Two threadgroups touched the same bytes without an order (check_accesses only)."""


class OrderDependence(KernelError):
    """Lane orders gave different results: a barrier is missing."""


_ERRORS = {
    1: InvalidLaunch,
    2: DivergentFlow,
    3: OutOfBounds,
    4: KernelTimeout,
    5: KernelTrap,
    6: DataRace,
}


def runs_on_gpu() -> bool:
    return os.environ.get(TARGET_VARIABLE, "cpu") == "nvptx"


class _Launch(ctypes.Structure):
    _fields_ = (
        ("entry", ctypes.c_void_p),
        ("buffers", ctypes.POINTER(ctypes.c_void_p)),
        ("grid_threads", ctypes.c_uint32 * 3),
        ("threads", ctypes.c_uint32 * 3),
        ("threadgroup_bytes", ctypes.POINTER(ctypes.c_uint32)),
        ("n_threadgroup_arguments", ctypes.c_uint32),
        ("n_workers", ctypes.c_uint32),
        ("reversed", ctypes.c_uint32),
        ("timeout_seconds", ctypes.c_double),
    )


class _Kernel(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("entry", ctypes.c_void_p),
        ("signature", ctypes.POINTER(ctypes.c_int)),
    )


def build_runtime() -> Path:
    """The fiber runtime as a shared library."""
    sources = sorted(RUNTIME.glob("*.cpp"))
    headers = [*RUNTIME.glob("*.h"), RUNTIME.parent / "include" / "cpu" / "msl_abi.h"]
    flags = ["-std=c++20", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
    command = [toolchain.clangxx(), *flags, "-fno-omit-frame-pointer", *map(str, sources)]
    # All libraries of kernels, and the software Metal, share one runtime under this name.
    command += ["-Wl,-soname,libmsl_runtime.so", "-lpthread", "-o", "{output}"]
    return toolchain.build("libmsl_runtime.so", command, [*sources, *headers])


@functools.cache
def runtime() -> ctypes.CDLL:
    """The loaded runtime, its functions typed."""
    library = ctypes.CDLL(str(build_runtime()), mode=ctypes.RTLD_GLOBAL)
    library.msl_load.restype = ctypes.c_void_p
    library.msl_kernel_count.argtypes = [ctypes.c_void_p]
    library.msl_kernel_at.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    library.msl_kernel_at.restype = ctypes.POINTER(_Kernel)
    library.msl_guarded_alloc.argtypes = [ctypes.c_size_t]
    library.msl_guarded_alloc.restype = ctypes.c_void_p
    library.msl_guarded_free.argtypes = [ctypes.c_void_p]
    library.msl_guarded_protect.argtypes = [ctypes.c_void_p, ctypes.c_bool]
    library.msl_guarded_intact.argtypes = [ctypes.c_void_p]
    library.msl_guarded_intact.restype = ctypes.c_bool
    library.msl_watch.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    library.msl_unwatch.argtypes = [ctypes.c_void_p]
    return library


class Library:
    """One specialisation of a compiled .metal file.

    constants: values of the function constants by index, as NumPy scalars of the declared type.
    Raises MetalCompileError.
    """

    def __init__(
        self,
        source: str | Path,
        constants: Mapping[int, np.generic] | None = None,
        *,
        macros: Mapping[str, str] | None = None,
        check_accesses: bool = False,
    ) -> None:
        self.checked = check_accesses
        self.text = source.read_text() if isinstance(source, Path) else source
        self.constants = dict(constants or {})
        self.macros = dict(macros or {})
        self._kernels: dict[str, _Kernel] = {}
        if not runs_on_gpu():  # a GPU's kernels are compiled one by one, when they run
            self._load(compile_metal(source, macros=macros, check_accesses=check_accesses))

    def _load(self, path: Path) -> None:
        values = [(i, v.tobytes()) for i, v in self.constants.items()]
        n = len(values)
        message = ctypes.create_string_buffer(512)
        handle = runtime().msl_load(
            str(path).encode(),
            (ctypes.c_uint32 * n)(*(i for i, _ in values)),
            (ctypes.c_char_p * n)(*(v for _, v in values)),
            (ctypes.c_uint32 * n)(*(len(v) for _, v in values)),
            ctypes.c_uint32(n),
            message,
            ctypes.c_size_t(len(message)),
        )
        if not handle:
            raise RuntimeError(f"cannot load {path}: {message.value.decode()}")
        for i in range(runtime().msl_kernel_count(handle)):
            kernel = runtime().msl_kernel_at(handle, i).contents
            self._kernels[kernel.name.decode()] = kernel

    @property
    def kernel_names(self) -> list[str]:
        return list(self._kernels)

    def writable_buffers(self, kernel: str) -> set[int]:
        """Indices of the buffers that the kernel may write (``device T*`` without ``const``)."""
        codes = itertools.takewhile(lambda code: code >= 0, self._kernels[kernel].signature)
        return {code & 0xFF for code in codes if code >> 16}

    def entry(self, kernel: str) -> int:
        address: int = self._kernels[kernel].entry
        return address


class _GuardedArguments:
    """Copies of the arguments between guard pages; read-only where the kernel may only read."""

    def __init__(self, library: Library, kernel: str, arguments: Sequence[Argument]) -> None:
        self._places: list[tuple[int, npt.NDArray[Any], bool]] = []
        self.table = (ctypes.c_void_p * N_BUFFERS)()
        self._watched = library.checked
        writable = library.writable_buffers(kernel)
        for i, argument in enumerate(arguments):
            if argument is None:
                continue
            array = np.frombuffer(argument, np.uint8) if isinstance(argument, bytes) else argument
            if not array.flags.c_contiguous:
                raise ValueError(f"argument {i} is not contiguous: pass np.ascontiguousarray(...)")
            address = runtime().msl_guarded_alloc(array.nbytes)
            ctypes.memmove(address, array.ctypes.data, array.nbytes)
            if i not in writable:
                runtime().msl_guarded_protect(address, True)
            if self._watched:
                runtime().msl_watch(address, array.nbytes)
            self.table[i] = address
            self._places.append((address, array, i in writable))

    def written(self) -> list[bytes]:
        """What the kernel left in its writable buffers. Raises OutOfBounds for marks beside one."""
        results = []
        for address, array, writable in self._places:
            if not runtime().msl_guarded_intact(address):
                raise OutOfBounds(f"the kernel wrote next to a buffer of {array.nbytes} bytes")
            results.append(ctypes.string_at(address, array.nbytes) if writable else b"")
        return results

    def copy_back(self) -> None:
        for address, array, writable in self._places:
            if writable:
                ctypes.memmove(array.ctypes.data, address, array.nbytes)

    def free(self) -> None:
        for address, _, _ in self._places:
            if self._watched:
                runtime().msl_unwatch(address)
            runtime().msl_guarded_free(address)


def run_kernel(
    library: Library,
    kernel: str,
    arguments: Sequence[Argument],
    *,
    threadgroups: Sequence[int] | None = None,
    threads: Sequence[int],
    grid: Sequence[int] | None = None,
    threadgroup_bytes: Sequence[int] = (),
    order: Order = "both",
    n_workers: int = 2,
    timeout_seconds: float = 20.0,
) -> None:
    """Runs a kernel; arrays bound to writable parameters then hold its results.

    arguments: one per buffer index; bytes stand for setBytes. Give either threadgroups (their
    number along x, y, z) or grid (threads along x, y, z; ragged at the edge); threads is the size
    of a threadgroup. threadgroup_bytes: length of each threadgroup argument. order: in which the
    lanes of a simdgroup, the simdgroups and the threadgroups run; "both" runs twice and raises
    OrderDependence unless the results are the same bits. Raises a KernelError for each rule broken.
    """
    if (grid is None) == (threadgroups is None):
        raise ValueError("give either grid or threadgroups")
    block = _triple(threads)
    groups = _triple(threadgroups or ())
    extent = (
        _triple(grid) if grid is not None else [g * t for g, t in zip(groups, block, strict=True)]
    )
    if runs_on_gpu():
        from metal_rig.gpu.runner import run_on_gpu

        run_on_gpu(library, kernel, arguments, extent, block, threadgroup_bytes)
        return
    recording.record(library.text, library.macros, library.constants, kernel)
    lengths = (ctypes.c_uint32 * len(threadgroup_bytes))(*threadgroup_bytes)
    orders = {"forward": [0], "reversed": [1], "both": [0, 1]}[order]
    results: list[list[bytes]] = []
    for reversed_ in orders:
        guarded = _GuardedArguments(library, kernel, arguments)
        try:
            launch = _Launch(
                entry=library.entry(kernel),
                buffers=guarded.table,
                grid_threads=(ctypes.c_uint32 * 3)(*extent),
                threads=(ctypes.c_uint32 * 3)(*block),
                threadgroup_bytes=lengths,
                n_threadgroup_arguments=len(threadgroup_bytes),
                n_workers=1 if library.checked else n_workers,
                reversed=reversed_,
                timeout_seconds=timeout_seconds,
            )
            message = ctypes.create_string_buffer(512)
            status = runtime().msl_dispatch(
                ctypes.byref(launch), message, ctypes.c_size_t(len(message))
            )
            if status:
                raise _ERRORS[status](f"{kernel}: {message.value.decode()}")
            results.append(guarded.written())
            if results[0] != results[-1]:
                raise OrderDependence(f"{kernel}: lane orders give different results")
            if reversed_ == orders[-1]:
                guarded.copy_back()
        finally:
            guarded.free()


def _triple(values: Sequence[int]) -> list[int]:
    return [*values, 1, 1, 1][:3]
