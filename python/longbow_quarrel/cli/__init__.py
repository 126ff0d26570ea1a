"""The command line: ``longbow-quarrel`` and ``quarrel``. One file per command.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted. An error is one sentence on standard
error.
"""

from __future__ import annotations

from longbow_quarrel.cli.app import main

__all__ = ["main"]
