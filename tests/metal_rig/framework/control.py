"""The software Metal's control interface (rig_control.h) for Python tests.

A library built against the rig and this module share one libMetal.so, so what is set here holds for
the device that the library uses in the same process.
"""

from __future__ import annotations

import ctypes
import enum
from collections.abc import Iterator
from contextlib import contextmanager

from metal_rig.framework.build import build_metal


class Fault(enum.IntEnum):
    """What can be made to fail; the values of enum rig_fault."""

    ALLOCATION = 0
    COMPILE = 1
    PIPELINE = 2
    GPU = 3
    TIMEOUT = 4


class SoftwareMetal:
    """Settings, faults and observations. They hold for the process."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(str(build_metal()))
        self._library.rig_violation.restype = ctypes.c_char_p
        for name in ("rig_live_buffers", "rig_live_command_buffers", "rig_dispatch_count"):
            getattr(self._library, name).restype = ctypes.c_size_t

    def reset(self) -> None:
        """Back to the defaults. Not while command buffers are in flight."""
        self._library.rig_reset()

    def inject(self, fault: Fault, after_successes: int = 0) -> None:
        """The next event of this kind fails, or a later one; only once."""
        self._library.rig_inject(int(fault), after_successes)

    def set_reversed(self, on: bool) -> None:
        """Lanes, threadgroups and unordered dispatches run in descending order."""
        self._library.rig_set_reversed(int(on))

    def set_access_checks(self, on: bool) -> None:
        """Buffers and libraries made from here on report data races and hazards."""
        self._library.rig_set_access_checks(int(on))

    def set_workers(self, n: int) -> None:
        self._library.rig_set_workers(n)

    def set_timeout_seconds(self, seconds: float) -> None:
        self._library.rig_set_timeout_seconds(ctypes.c_double(seconds))

    def set_max_threads_per_threadgroup(self, n: int) -> None:
        """What pipelines made from here on allow."""
        self._library.rig_set_max_threads_per_threadgroup(n)

    def set_recommended_working_set_bytes(self, n_bytes: int) -> None:
        self._library.rig_set_recommended_working_set(ctypes.c_size_t(n_bytes))

    def set_abort_on_violation(self, on: bool) -> None:
        self._library.rig_set_abort_on_violation(int(on))

    @property
    def violations(self) -> list[str]:
        """Rules broken since reset(), where they do not end the process."""
        n = self._library.rig_violation_count()
        return [self._library.rig_violation(i).decode() for i in range(n)]

    @property
    def n_live_buffers(self) -> int:
        return int(self._library.rig_live_buffers())

    @property
    def n_live_command_buffers(self) -> int:
        return int(self._library.rig_live_command_buffers())

    @property
    def n_dispatches(self) -> int:
        """Run since reset()."""
        return int(self._library.rig_dispatch_count())


@contextmanager
def software_metal() -> Iterator[SoftwareMetal]:
    """The rig at its defaults for one test; a broken rule is an AssertionError at the end."""
    metal = SoftwareMetal()
    metal.reset()
    metal.set_abort_on_violation(False)
    try:
        yield metal
        if metal.violations:
            raise AssertionError(f"Metal rules broken: {'; '.join(metal.violations)}")
    finally:
        metal.reset()
