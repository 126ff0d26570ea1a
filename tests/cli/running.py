"""What running the command line gives, and the types of the fixtures that do it."""

from __future__ import annotations

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
