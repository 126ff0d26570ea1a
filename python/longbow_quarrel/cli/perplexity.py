"""``perplexity``: how well a model predicts a text."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from longbow_quarrel.cli import loading
from longbow_quarrel.cli.options import Flags, configured
from longbow_quarrel.config import EngineConfig, SourceConfig
from longbow_quarrel.errors import UsageError

_CHUNK = 512  # tokens; what published figures use


@configured(SourceConfig, EngineConfig)
def perplexity(
    flags: Flags,
    file: Annotated[Path, typer.Option("-f", "--file", metavar="FILE", help="The text, in UTF-8.")],
    chunks: Annotated[
        int | None, typer.Option("--chunks", metavar="N", help="Chunks to use; all if unset.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure a model's perplexity on a text, by llama-perplexity's method.

    -c is the length of a chunk in tokens (512 if unset); the second half of each chunk is scored.
    """
    if chunks is not None and chunks < 1:
        raise UsageError(f"--chunks must be at least 1, not {chunks}.")
    source = flags.load(SourceConfig)
    config = flags.load(EngineConfig)
    if config.context_length is None:
        config = flags.load(EngineConfig, context_length=_CHUNK)
    text = _read(file)
    llm = loading.load(source, config)

    from longbow_quarrel.evaluation.perplexity import perplexity as measure

    with _progress() as progress:
        result = measure(
            llm.engine,
            text,
            n_ctx=llm.engine.runner.context_length,
            n_chunks=chunks,
            progress=progress,
        )
    if as_json:
        speed = {"tokens_per_second": result.tokens_per_second}
        print(json.dumps({"model": str(llm.path), **dataclasses.asdict(result), **speed}))
        return
    print(
        f"perplexity {result.perplexity:.4f} +/- {result.standard_error:.4f} "
        f"({result.n_chunks} chunks of {result.n_ctx} tokens, {result.n_scored} scored; "
        f"{result.seconds:.1f} s, {result.tokens_per_second:.1f} tokens/s)"
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as e:
        raise UsageError(f"{path} is no UTF-8 text (byte {e.start}); convert it first.") from None
    except OSError as e:
        raise UsageError(f"{path} cannot be read ({e.strerror}); give a text file.") from None


@contextmanager
def _progress() -> Iterator[Callable[[int, int, float], None] | None]:
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("perplexity", total=None)
        yield lambda done, total, value: bars.update(
            task, completed=done, total=total, description=f"perplexity {value:.4f}"
        )
