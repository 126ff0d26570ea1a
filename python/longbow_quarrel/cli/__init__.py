"""The command line: ``longbow-quarrel`` and ``quarrel``. One file per command.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted. An error is one sentence on standard
error.
"""

from __future__ import annotations

import os

_INTERRUPTED = 130

try:
    import signal
    from collections.abc import Sequence
except KeyboardInterrupt:
    os._exit(_INTERRUPTED)

__all__ = ["leave_at_once", "main"]


def leave_at_once(*_: object) -> None:
    """What Ctrl-C does before there is anything to undo and after all is done.

    Imports, and Python on its way out, turn a KeyboardInterrupt into errors of all kinds.
    """
    os._exit(_INTERRUPTED)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; ``arguments`` are those of the process when None.

    To be called in the process's main thread. Returns the exit code.
    """
    previous = signal.getsignal(signal.SIGINT)
    if previous is signal.default_int_handler:
        signal.signal(signal.SIGINT, leave_at_once)
    from longbow_quarrel.cli.app import run

    try:
        return run(arguments)
    finally:
        if arguments is not None:  # the process goes on
            signal.signal(signal.SIGINT, previous)
