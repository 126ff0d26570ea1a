"""What running the command line gives, and the types of the fixtures that do it."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


Run = Callable[..., Result]
Start = Callable[..., subprocess.Popen[bytes]]


def heed_interrupts() -> None:
    """A shell starts background jobs, and so perhaps these tests, with Ctrl-C ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
