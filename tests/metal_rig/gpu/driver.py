"""NVIDIA's driver API through ctypes: what the rig needs of it, and nothing to install.

One context, one stream. Device memory is allocated plainly, so that compute-sanitizer sees each
buffer's end.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

_CAPTURE_RELAXED = 2
_MULTIPROCESSORS = 16  # CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT
_MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_PLAIN_SHARED = 48 << 10  # more has to be asked for


class DriverError(RuntimeError):
    """The driver refused, or a kernel failed."""


class _Driver:
    """The library; every call checked."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise DriverError(
                "[gpu] no NVIDIA driver here: run this on a machine with an NVIDIA GPU"
            ) from error

    def __call__(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status == 0:
            return
        text = ctypes.c_char_p()
        self._library.cuGetErrorString(status, ctypes.byref(text))
        raise DriverError(f"[gpu] {name}: {(text.value or b'unknown').decode()} ({status})")


@functools.cache
def _driver() -> _Driver:
    """The driver with a context that is current."""
    driver = _Driver()
    driver("cuInit", 0)
    device, context = ctypes.c_int(), ctypes.c_void_p()
    driver("cuDeviceGet", ctypes.byref(device), 0)
    driver("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    driver("cuCtxSetCurrent", context)
    return driver


@functools.cache
def _stream() -> ctypes.c_void_p:
    stream = ctypes.c_void_p()
    # With flags 0 it waits for copies, which are made without a stream.
    _driver()("cuStreamCreate", ctypes.byref(stream), 0)
    return stream


def device_name() -> str:
    name = ctypes.create_string_buffer(128)
    _driver()("cuDeviceGetName", name, 128, 0)
    return name.value.decode()


def n_cores() -> int:
    """Multiprocessors."""
    value = ctypes.c_int()
    _driver()("cuDeviceGetAttribute", ctypes.byref(value), _MULTIPROCESSORS, 0)
    return value.value


class Buffer:
    """Device memory. It is freed with the object."""

    def __init__(self, n_bytes: int) -> None:
        self.n_bytes = n_bytes
        self._address = ctypes.c_uint64()
        _driver()("cuMemAlloc_v2", ctypes.byref(self._address), ctypes.c_size_t(max(n_bytes, 1)))

    @staticmethod
    def of(array: npt.NDArray[Any] | bytes) -> Buffer:
        data = np.frombuffer(array, np.uint8) if isinstance(array, bytes) else array
        buffer = Buffer(data.nbytes)
        buffer.upload(data)
        return buffer

    @property
    def address(self) -> int:
        return self._address.value

    def upload(self, array: npt.NDArray[Any]) -> None:
        if array.nbytes != self.n_bytes or not array.flags.c_contiguous:
            raise ValueError("an array of the buffer's size, without gaps, is needed")
        source = ctypes.c_void_p(array.ctypes.data)
        _driver()("cuMemcpyHtoD_v2", self._address, source, ctypes.c_size_t(array.nbytes))

    def download(self, like: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The contents from the start, as an array of that shape and type."""
        synchronize()
        array = np.empty_like(like)
        to = ctypes.c_void_p(array.ctypes.data)
        _driver()("cuMemcpyDtoH_v2", to, self._address, ctypes.c_size_t(array.nbytes))
        return array

    @staticmethod
    def tiled(array: npt.NDArray[Any], n_bytes: int) -> Buffer:
        """A buffer that holds the array again and again."""
        buffer = Buffer(n_bytes)
        filled = min(array.nbytes, n_bytes)
        source = ctypes.c_void_p(array.ctypes.data)
        _driver()("cuMemcpyHtoD_v2", buffer._address, source, ctypes.c_size_t(filled))
        while filled < n_bytes:
            size = min(filled, n_bytes - filled)
            to = ctypes.c_uint64(buffer.address + filled)
            _driver()("cuMemcpyDtoD_v2", to, buffer._address, ctypes.c_size_t(size))
            filled += size
        synchronize()
        return buffer

    def fill(self, word: int) -> None:
        """Every 32 bits become `word`."""
        count = ctypes.c_size_t(self.n_bytes // 4)
        _driver()("cuMemsetD32_v2", self._address, ctypes.c_uint(word), count)
        synchronize()

    def __del__(self) -> None:
        _driver()("cuMemFree_v2", self._address)


class Function:
    """A kernel of a loaded module (a cubin, or PTX that the driver compiles)."""

    def __init__(self, image: bytes, symbol: str) -> None:
        self._module, self._function = ctypes.c_void_p(), ctypes.c_void_p()
        _driver()("cuModuleLoadData", ctypes.byref(self._module), image + b"\0")
        _driver()(
            "cuModuleGetFunction", ctypes.byref(self._function), self._module, symbol.encode()
        )

    def launch(
        self,
        groups: Sequence[int],
        threads: Sequence[int],
        parameters: Sequence[ctypes.c_uint64 | ctypes.c_uint32],
        dynamic_bytes: int,
    ) -> None:
        """Puts a launch in the stream; it does not wait."""
        if dynamic_bytes > _PLAIN_SHARED:
            _driver()("cuFuncSetAttribute", self._function, _MAX_DYNAMIC_SHARED, dynamic_bytes)
        places = [ctypes.cast(ctypes.byref(p), ctypes.c_void_p) for p in parameters]
        table = (ctypes.c_void_p * max(len(places), 1))(*places)
        shape = [ctypes.c_uint(n) for n in (*groups, *threads)]
        shared = ctypes.c_uint(dynamic_bytes)
        _driver()("cuLaunchKernel", self._function, *shape, shared, _stream(), table, None)


def synchronize() -> None:
    """Waits for all launches. Raises DriverError for a kernel that failed."""
    _driver()("cuStreamSynchronize", _stream())


@contextmanager
def _event() -> Iterator[ctypes.c_void_p]:
    event = ctypes.c_void_p()
    _driver()("cuEventCreate", ctypes.byref(event), 0)
    try:
        yield event
    finally:
        _driver()("cuEventDestroy_v2", event)


def median_seconds(launches: Sequence[Callable[[], None]], repetitions: int = 15) -> float:
    """Seconds of one launch: all are captured in a graph, as a command buffer holds them, and the
    graph is replayed."""
    driver, stream = _driver(), _stream()
    for launch in launches:
        launch()
    synchronize()
    graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
    driver("cuStreamBeginCapture_v2", stream, _CAPTURE_RELAXED)
    for launch in launches:
        launch()
    driver("cuStreamEndCapture", stream, ctypes.byref(graph))
    driver("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
    times = []
    with _event() as begin, _event() as end:
        for repetition in range(repetitions + 3):
            driver("cuEventRecord", begin, stream)
            driver("cuGraphLaunch", executable, stream)
            driver("cuEventRecord", end, stream)
            driver("cuEventSynchronize", end)
            milliseconds = ctypes.c_float()
            driver("cuEventElapsedTime", ctypes.byref(milliseconds), begin, end)
            if repetition >= 3:  # warm by now
                times.append(milliseconds.value / 1e3 / len(launches))
    driver("cuGraphExecDestroy", executable)
    driver("cuGraphDestroy", graph)
    return float(np.median(times))
