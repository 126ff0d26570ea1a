"""Collects the commands, and turns whatever ends them into an exit code and one sentence."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import typer

from longbow_quarrel.cli import interrupt
from longbow_quarrel.cli.bench import bench
from longbow_quarrel.cli.chat import chat
from longbow_quarrel.cli.generate import generate
from longbow_quarrel.cli.info import info
from longbow_quarrel.cli.models import models
from longbow_quarrel.cli.perplexity import perplexity
from longbow_quarrel.cli.plan import plan
from longbow_quarrel.cli.pull import pull
from longbow_quarrel.cli.serve import serve
from longbow_quarrel.config import debug
from longbow_quarrel.errors import QuarrelError, UsageError

FAILED = 1
WRONG_USAGE = 2
_COMMANDS = (generate, chat, info, models, pull, plan, perplexity, bench, serve)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; see :func:`longbow_quarrel.cli.main`."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a model's text must not fail in a C locale
    command = typer.main.get_command(_app())
    # A list: called from Python with nothing, typer would read the arguments of the process.
    given = sys.argv[1:] if arguments is None else list(arguments)
    code = _invoke(command, given)
    if code == interrupt.EXIT_CODE and sys.stderr.isatty():
        print(file=sys.stderr)  # the shell's prompt belongs on a line of its own
    return code


def _invoke(command: Any, arguments: list[str]) -> int:
    try:
        with interrupt.guard() as guard:
            code = command.main(
                arguments, prog_name="longbow-quarrel", standalone_mode=False, obj=guard
            )
            sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):  # which of the two depends on typer's version
        return interrupt.EXIT_CODE
    except BrokenPipeError:
        _abandon_stdout()
        return FAILED
    except SystemExit as e:  # the option parser's answer to a closed pipe
        _abandon_stdout()
        return e.code if isinstance(e.code, int) else FAILED
    except Exception as e:
        return _explain(e)


def _app() -> typer.Typer:
    # Rich markup would frame errors in boxes; see the module's first sentence.
    app = typer.Typer(
        name="longbow-quarrel",
        help="LLM inference for Apple Silicon and plain CPUs.",
        add_completion=False,
        no_args_is_help=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_root)
    for command in _COMMANDS:
        app.command(command.__name__)(command)
    return app


def _root(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and leave."),
) -> None:
    """LLM inference for Apple Silicon and plain CPUs.

    Options are read from flags, then QUARREL_... environment variables, then quarrel.toml in the
    working folder (or the file that QUARREL_CONFIG names).
    """
    if version:
        from longbow_quarrel import __version__

        print(f"longbow-quarrel {__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


def _explain(error: Exception) -> int:
    """Print one sentence about ``error``; the exit code that it asks for."""
    if debug():
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
    """Keep the interpreter from complaining, when it ends, about a pipe that nobody reads."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
