"""Runs a command, and turns whatever ends it into an exit code and one sentence."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from longbow_quarrel.cli import interrupt, quick
from longbow_quarrel.config import debug
from longbow_quarrel.errors import QuarrelError, UsageError

FAILED = 1
WRONG_USAGE = 2


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; see :func:`longbow_quarrel.cli.main`."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, as some who start daemons do
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a model's text must not fail in a C locale
    code = _invoke(sys.argv[1:] if arguments is None else list(arguments))
    if code == interrupt.EXIT_CODE and sys.stderr.isatty():
        print(file=sys.stderr)  # the shell's prompt belongs on a line of its own
    return code


def _invoke(arguments: list[str]) -> int:
    try:
        with interrupt.guard() as guard:
            code = _call(arguments, guard)
            sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return interrupt.EXIT_CODE
    except BrokenPipeError:
        _abandon_stdout()
        return FAILED
    except SystemExit as e:  # the option parser's answer to a closed pipe
        _abandon_stdout()
        return e.code if isinstance(e.code, int) else FAILED
    except Exception as e:
        code = _explain(e)
        try:
            sys.stdout.flush()
        except (OSError, ValueError):  # what cannot be written would be tried again at the end
            _abandon_stdout()
        return code


def _call(arguments: list[str], guard: interrupt.InterruptGuard) -> int:
    command = quick.parse(arguments)
    if command is not None:
        command()
        return 0
    from longbow_quarrel.cli import commands

    return commands.invoke(arguments, guard)


def _explain(error: Exception) -> int:
    """Print one sentence about ``error``; the exit code that it asks for."""
    if debug():
        import traceback

        traceback.print_exception(error)
    if isinstance(error, QuarrelError):
        _print_error(str(error))
        return WRONG_USAGE if isinstance(error, UsageError) else FAILED
    if hasattr(error, "format_message"):  # the option parser's, whichever click typer is built on
        path = getattr(getattr(error, "ctx", None), "command_path", "longbow-quarrel")
        _print_error(f"{error.format_message().rstrip('.')}; see `{path} --help`.")
        return int(getattr(error, "exit_code", FAILED))
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        _print_error(f"{where}{error.strerror}.")
        return FAILED
    text = " ".join(str(error).split()).rstrip(".")
    _print_error(
        f"unexpected {type(error).__name__}{': ' + text if text else ''}; "
        "set QUARREL_DEBUG=1 to see where, and report it."
    )
    return FAILED


def _print_error(sentence: str) -> None:
    with suppress(OSError, ValueError):  # standard error may be closed too
        print(f"error: {sentence}", file=sys.stderr, flush=True)


def _abandon_stdout() -> None:
    """Keep the interpreter from complaining, when it ends, about a pipe that nobody reads or a
    full disk."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
