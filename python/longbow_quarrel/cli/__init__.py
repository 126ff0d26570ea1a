"""The command line: ``longbow-quarrel`` and ``quarrel``. One file per command.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted. An error is one sentence on standard
error.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; ``arguments`` are those of the process when None.

    To be called in the process's main thread. Returns the exit code.
    """
    previous = signal.getsignal(signal.SIGINT)
    if previous is signal.default_int_handler:
        # Imports turn a KeyboardInterrupt into errors of all kinds, and there is nothing to undo.
        signal.signal(signal.SIGINT, lambda *_: os._exit(128 + signal.SIGINT))
    from longbow_quarrel.cli.app import run

    signal.signal(signal.SIGINT, previous)
    return run(arguments)
