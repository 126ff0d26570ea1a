"""How long work is reported: a callback protocol, and a progress bar for terminals."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class ProgressCallback(Protocol):
    """Called by the working thread, a few times per megabyte.

    ``description`` names the current piece of work and changes when the next piece begins,
    ``bytes_done`` never exceeds ``bytes_total``, and ``bytes_total`` is None while unknown.
    An exception raised here stops the work and reaches the caller.
    """

    def __call__(self, description: str, bytes_done: int, bytes_total: int | None, /) -> None: ...


def silent(description: str, bytes_done: int, bytes_total: int | None, /) -> None:
    """Report nothing."""


class _Bars:
    """One bar per description. Drawing starts with the first report, so that a model that is
    already on the disk shows nothing at all."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._display: Progress | None = None
        self._task: TaskID | None = None
        self._description = ""

    def __call__(self, description: str, bytes_done: int, bytes_total: int | None, /) -> None:
        display = self._display or self._start()
        if self._task is None or description != self._description:
            self._finish_task(display)
            self._task = display.add_task(description, total=bytes_total)
            self._description = description
        display.update(self._task, completed=bytes_done, total=bytes_total)

    def _start(self) -> Progress:
        from rich import progress as bars
        from rich.console import Console

        self._display = bars.Progress(
            bars.TextColumn("{task.description}", markup=False),
            bars.BarColumn(),
            bars.DownloadColumn(),
            bars.TransferSpeedColumn(),
            bars.TimeRemainingColumn(),
            console=Console(file=self._stream),
        )
        self._display.start()
        return self._display

    def _finish_task(self, display: Progress) -> None:
        if self._task is not None and display.tasks[-1].total is None:
            # A task of unknown size would pulse for ever.
            display.update(self._task, total=display.tasks[-1].completed)

    def close(self) -> None:
        if self._display is not None:
            self._finish_task(self._display)
            self._display.stop()


@contextmanager
def terminal_progress(stream: TextIO | None = None) -> Iterator[ProgressCallback | None]:
    """Yield a callback that draws progress bars on ``stream`` (standard error when None).

    Yields None where ``stream`` is no terminal, so that a pipe or a log receives nothing. The
    terminal is restored on leaving, also after Ctrl-C.
    """
    target = sys.stderr if stream is None else stream
    if not target.isatty():
        yield None
        return
    bars = _Bars(target)
    try:
        yield bars
    finally:
        bars.close()
