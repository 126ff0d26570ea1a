"""``chat``: a conversation in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from longbow_quarrel.cli import loading, report
from longbow_quarrel.cli.interrupt import InterruptGuard
from longbow_quarrel.cli.options import Flags, checked_text, configured
from longbow_quarrel.config import EngineConfig, GenerationConfig, SourceConfig
from longbow_quarrel.errors import ContextLengthError, UsageError

if TYPE_CHECKING:
    from longbow_quarrel import SamplingParams
    from longbow_quarrel.cli.conversation import Conversation

_HELP = "/reset starts over, /exit or Ctrl-D leaves, Ctrl-C interrupts an answer."
_MAX_TOKENS = 1024  # 256, the general default, ends many an answer in the middle


@configured(SourceConfig, GenerationConfig, EngineConfig)
def chat(
    flags: Flags,
    context: typer.Context,
    system: Annotated[
        str | None, typer.Option("--system", help="System message, before the conversation.")
    ] = None,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Print timings on standard error.")
    ] = False,
) -> None:
    """Talk with a model, in its own template; in a pipe every line is a turn.

    /reset starts over, /exit or Ctrl-D leaves, Ctrl-C interrupts an answer. Answers have up to
    1024 tokens unless max_tokens is set. What was computed for earlier turns is reused.
    """
    if system is not None:
        checked_text(system, "--system")
    generation = flags.load(GenerationConfig)
    config = flags.load(EngineConfig)
    source = flags.load(SourceConfig)

    from longbow_quarrel import SamplingParams

    own = {} if "max_tokens" in generation.model_fields_set else {"max_tokens": _MAX_TOKENS}
    params = SamplingParams(**(generation.model_dump() | own))
    llm = loading.load(source, config)

    from longbow_quarrel.cli.conversation import Conversation

    conversation = Conversation(llm, system)
    conversation.check()
    guard: InterruptGuard = context.obj
    on_terminal = sys.stdin.isatty()
    with llm:
        for line in _terminal_lines() if on_terminal else _piped_lines():
            if line == "/exit":
                break
            if line == "/reset":
                conversation.reset()
            elif line:
                try:
                    _answer(conversation, line, params, guard, verbose)
                except ContextLengthError as e:
                    if not on_terminal:
                        raise
                    print(f"error: {e} (/reset starts over.)", file=sys.stderr)


def _answer(
    conversation: Conversation,
    line: str,
    params: SamplingParams,
    guard: InterruptGuard,
    verbose: bool,
) -> None:
    with guard.caught() as interrupted:
        stream = conversation.ask(line, params)
        with stream:
            for piece in stream.steps():
                sys.stdout.write(piece)
                sys.stdout.flush()
                if interrupted.is_set():
                    break
        conversation.answered(stream.output)
    print(flush=True)
    if verbose:
        print(report.timings_line(stream.output), file=sys.stderr)
    if interrupted.is_set() and not sys.stdin.isatty():
        raise KeyboardInterrupt


def _piped_lines() -> Iterator[str]:
    try:
        for line in iter(sys.stdin.buffer.readline, b""):
            yield line.decode("utf-8").strip()
    except UnicodeDecodeError as e:
        raise UsageError(
            f"Standard input is no UTF-8 text (byte {e.start}); convert it first."
        ) from None


def _terminal_lines() -> Iterator[str]:
    """Lines as they are typed. Ctrl-C drops a line; twice in a row it ends the command."""
    with suppress(ImportError):
        import readline  # noqa: F401  (gives input() line editing and a history)
    print(_HELP, file=sys.stderr)
    tired = False
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            if tired:
                raise
            tired = True
            print(f"\n{_HELP}", file=sys.stderr)
            continue
        tired = False
        yield line
