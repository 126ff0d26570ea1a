"""Runs kernels through the Metal API, with the interface of ``metal_rig.msl.runner``.

On a Mac that is the real GPU. On Linux it is the software Metal, to test this module itself.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from metal_rig import toolchain

SOURCE = Path(__file__).parent / "run_kernel.mm"
Argument = npt.NDArray[Any] | bytes | None
Order = Literal["forward", "reversed", "both"]


class KernelError(Exception):
    """Metal has refused a kernel or a launch, or the GPU has failed."""


class _Constant(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint32) for name in ("index", "is_bool", "bits"))


class _Launch(ctypes.Structure):
    _fields_ = (
        ("kernel", ctypes.c_char_p),
        ("data", ctypes.POINTER(ctypes.c_void_p)),
        ("n_bytes", ctypes.POINTER(ctypes.c_size_t)),
        ("by_value", ctypes.POINTER(ctypes.c_uint32)),
        ("n_arguments", ctypes.c_uint32),
        ("extent", ctypes.c_uint32 * 3),
        ("is_grid", ctypes.c_uint32),
        ("threads", ctypes.c_uint32 * 3),
        ("threadgroup_bytes", ctypes.POINTER(ctypes.c_uint32)),
        ("n_threadgroup_arguments", ctypes.c_uint32),
    )


def _build_on_a_mac() -> Path:
    key = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    target = toolchain.cache_directory("native", key) / "librun_kernel.dylib"
    if not target.exists():
        command = ["clang++", "-std=c++20", "-O1", "-fobjc-arc", "-fvisibility=hidden"]
        command += ["-dynamiclib", "-framework", "Foundation", "-framework", "Metal"]
        partial = target.with_suffix(".partial")
        subprocess.run([*command, str(SOURCE), "-o", str(partial)], timeout=300, check=True)
        partial.replace(target)
    return target


def _build_on_the_rig() -> Path:
    from metal_rig.framework.build import product_compile_flags, product_link_flags

    command = [toolchain.clangxx(), "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
    command += [*product_compile_flags(), str(SOURCE), *product_link_flags(), "-o", "{output}"]
    return toolchain.build("librun_kernel.so", command, [SOURCE])


@functools.cache
def _native() -> ctypes.CDLL:
    is_mac = platform.system() == "Darwin"
    library = ctypes.CDLL(str(_build_on_a_mac() if is_mac else _build_on_the_rig()))
    library.run_load.restype = ctypes.c_void_p
    library.run_unload.argtypes = [ctypes.c_void_p]
    return library


def why_not() -> str | None:
    """Why kernels cannot run on this Mac's GPU, or None."""
    if _native().run_is_available():
        return None
    return "this Mac has no GPU for the kernels: run the tests on one with Apple silicon."


class Library:
    """One specialisation of a shader; raises KernelError where it does not compile.

    ``check_accesses`` is the rig's and means nothing here.
    """

    def __init__(
        self,
        source: str,
        constants: Mapping[int, np.generic] | None = None,
        *,
        check_accesses: bool = False,  # noqa: ARG002
    ) -> None:
        values = [
            _Constant(index, isinstance(value, np.bool_), int(value))
            for index, value in (constants or {}).items()
        ]
        message = ctypes.create_string_buffer(4096)
        self.handle = _native().run_load(
            source.encode(),
            (_Constant * len(values))(*values),
            ctypes.c_size_t(len(values)),
            message,
            ctypes.c_size_t(len(message)),
        )
        if not self.handle:
            raise KernelError(message.value.decode())

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            _native().run_unload(self.handle)


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
) -> None:
    """As ``metal_rig.msl.runner.run_kernel``. Two orders are two runs, since a GPU has its own;
    raises KernelError where they differ."""
    results = [
        _run(library, kernel, arguments, threadgroups, threads, grid, threadgroup_bytes)
        for _ in range(2 if order == "both" else 1)
    ]
    first, last = results[0], results[-1]
    if any(a.tobytes() != b.tobytes() for a, b in zip(first, last, strict=True)):
        raise KernelError(f"{kernel}: two runs give different results")
    for argument, result in zip(arguments, last, strict=True):
        if isinstance(argument, np.ndarray) and argument.tobytes() != result.tobytes():
            argument[...] = result


def _run(
    library: Library,
    kernel: str,
    arguments: Sequence[Argument],
    threadgroups: Sequence[int] | None,
    threads: Sequence[int],
    grid: Sequence[int] | None,
    threadgroup_bytes: Sequence[int],
) -> list[npt.NDArray[Any]]:
    arrays = [
        np.frombuffer(a, np.uint8).copy() if isinstance(a, bytes) else np.array(a, copy=True)
        for a in arguments
    ]
    n = len(arrays)
    pointers = [
        None if a is None else x.ctypes.data for a, x in zip(arguments, arrays, strict=True)
    ]
    launch = _Launch(
        kernel=kernel.encode(),
        data=(ctypes.c_void_p * n)(*pointers),
        n_bytes=(ctypes.c_size_t * n)(*(x.nbytes for x in arrays)),
        by_value=(ctypes.c_uint32 * n)(*(isinstance(a, bytes) for a in arguments)),
        n_arguments=n,
        extent=(ctypes.c_uint32 * 3)(*_triple(grid or threadgroups or ())),
        is_grid=grid is not None,
        threads=(ctypes.c_uint32 * 3)(*_triple(threads)),
        threadgroup_bytes=(ctypes.c_uint32 * len(threadgroup_bytes))(*threadgroup_bytes),
        n_threadgroup_arguments=len(threadgroup_bytes),
    )
    message = ctypes.create_string_buffer(1024)
    if _native().run_launch(
        ctypes.c_void_p(library.handle), ctypes.byref(launch), message, ctypes.c_size_t(1024)
    ):
        raise KernelError(f"{kernel}: {message.value.decode()}")
    return arrays


def _triple(values: Sequence[int]) -> list[int]:
    return [*values, 1, 1, 1][:3]
