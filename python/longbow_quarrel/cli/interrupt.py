"""Ctrl-C that works at once, also while native code computes."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from longbow_quarrel.cli import leave_at_once

EXIT_CODE = 128 + signal.SIGINT
_GRACE_SECONDS = 0.5
_SHOW_CURSOR = b"\x1b[?25h"


class InterruptGuard:
    """Ends the process when Ctrl-C found Python unable to react for half a second.

    Python raises KeyboardInterrupt only between two instructions of its own, and loading a model
    or a step of a large one is a single call that takes seconds. The byte that the signal writes
    to the wake-up pipe arrives in any case. Made by :func:`guard`.
    """

    def __init__(self) -> None:
        self._caught: threading.Event | None = None
        self._reacted = threading.Event()
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._previous_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._previous = signal.getsignal(signal.SIGINT)
        # A shell may have asked to ignore it.
        self._is_ours = self._previous in (signal.default_int_handler, leave_at_once)
        if self._is_ours:
            signal.signal(signal.SIGINT, self._on_signal)
            self._previous_hook = sys.unraisablehook
            sys.unraisablehook = self._on_unraisable
            threading.Thread(target=self._watch, name="ctrl-c", daemon=True).start()

    @contextmanager
    def caught(self) -> Iterator[threading.Event]:
        """Within the block Ctrl-C sets the event and does nothing else."""
        self._caught = threading.Event()
        try:
            yield self._caught
        finally:
            self._caught = None

    def close(self) -> None:
        self._reacted.set()
        if self._is_ours:
            signal.signal(signal.SIGINT, self._previous)
            sys.unraisablehook = self._previous_hook
        signal.set_wakeup_fd(self._previous_fd)
        os.close(self._write)  # ends the thread's read

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._reacted.set()
        if self._caught is None:
            raise KeyboardInterrupt
        self._caught.set()

    def _on_unraisable(self, dropped: sys.UnraisableHookArgs) -> None:
        """A finalizer or an import's last callback ran when Ctrl-C came: Python goes on there."""
        if issubclass(dropped.exc_type, KeyboardInterrupt):
            _leave()
        self._previous_hook(dropped)

    def _watch(self) -> None:
        while data := os.read(self._read, 64):
            if signal.SIGINT not in data:
                continue
            if self._caught is None and not self._reacted.wait(_GRACE_SECONDS):
                _leave()
            self._reacted.clear()


def _leave() -> None:
    if sys.stderr.isatty():
        os.write(sys.stderr.fileno(), _SHOW_CURSOR + b"\n")
    os._exit(EXIT_CODE)


@contextmanager
def guard() -> Iterator[InterruptGuard]:
    """Make Ctrl-C end the block within a second, whatever is being computed.

    For the main thread of the process only.
    """
    watch = InterruptGuard()
    try:
        yield watch
    finally:
        watch.close()
