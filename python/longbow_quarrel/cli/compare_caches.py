"""``compare-caches``: strategies side by side, in speed, memory, latency, quality and reuse."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from longbow_quarrel.cli import loading, progress
from longbow_quarrel.cli.options import Flags, configured
from longbow_quarrel.cli.values import numbers, read_text
from longbow_quarrel.config import EngineConfig, SourceConfig
from longbow_quarrel.errors import UsageError

if TYPE_CHECKING:
    from longbow_quarrel.benchmarking.comparison import Comparison

_PARTS = ("speed", "quality", "reuse")
_CHOSEN_HERE = (
    *("cache", "eviction", "context_length", "max_num_seqs", "prefix_caching"),
    *("prefix_cache_file", "kv_cache_memory"),
)


@configured(SourceConfig, EngineConfig, without=_CHOSEN_HERE)
def compare_caches(
    flags: Flags,
    cache: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:OPTION=VALUE]...,...",
            help="What to compare, like paged:ctk=q8_0,sliding_window:window=512; every strategy "
            "if unset, those of --plugin included.",
        ),
    ] = None,
    eviction: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Policies with which paged runs the reuse workload; all if unset.",
        ),
    ] = None,
    plugin: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Python file that registers strategies or policies."),
    ] = None,
    lengths: Annotated[
        str, typer.Option("-l", "--lengths", metavar="N,...", help="Tokens of a prompt.")
    ] = "256,1024,4096",
    batch: Annotated[
        str, typer.Option("-b", "--batch", metavar="N,...", help="Requests that arrive together.")
    ] = "1,4,16",
    new: Annotated[
        int, typer.Option("-n", "--new", metavar="N", help="Tokens generated for each request.")
    ] = 48,
    repetitions: Annotated[
        int, typer.Option("-r", "--repetitions", metavar="N", help="Rounds of every cell.")
    ] = 2,
    cell_tokens: Annotated[
        int,
        typer.Option(metavar="N", help="Leave out cells with more prompt tokens than this."),
    ] = 16384,
    file: Annotated[
        Path | None,
        typer.Option(
            "-f", "--file", metavar="FILE", help="Text for quality; Python's manual if unset."
        ),
    ] = None,
    chunks: Annotated[
        int, typer.Option(metavar="N", help="Chunks of the text, each as long as -l's longest.")
    ] = 2,
    base_file: Annotated[
        Path | None,
        typer.Option(
            "--base",
            metavar="FILE",
            help="Predictions to measure quality by, of perplexity --logits-out or of "
            "llama-perplexity, beside those computed here.",
        ),
    ] = None,
    parts: Annotated[
        str, typer.Option(metavar="NAME,...", help="Of speed, quality and reuse.")
    ] = "speed,quality,reuse",
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write report.md, report.json and plots there."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare cache strategies and eviction policies: speed, memory, latency, quality, reuse.

    Rounds of the contenders alternate, each in a process of its own; cache figures are read from
    the metrics that `serve` exports. A strategy or policy of your own takes part with --plugin.
    """
    chosen = tuple(dict.fromkeys(parts.split(",")))
    if unknown := [part for part in chosen if part not in _PARTS]:
        raise UsageError(f"--parts takes {', '.join(_PARTS)}, not {unknown[0]!r}.")
    counts = (("-n", new, 2), ("-r", repetitions, 1), ("--chunks", chunks, 1))
    for flag, value, least in counts:
        if value < least:
            raise UsageError(f"{flag} must be at least {least}, not {value}.")
    sizes = numbers(lengths, "-l", least=1), numbers(batch, "-b", least=1)
    base = flags.load(EngineConfig, cache="contiguous")
    path = loading.fetch(flags.load(SourceConfig))
    text = _text(file) if "quality" in chosen else ""
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)

    from longbow_quarrel.benchmarking.comparison import Settings, compare
    from longbow_quarrel.benchmarking.contender import parse_contenders
    from longbow_quarrel.benchmarking.reuse import ReuseWorkload
    from longbow_quarrel.benchmarking.speed import Matrix
    from longbow_quarrel.cache import eviction_policies
    from longbow_quarrel.plugins import load_plugins

    load_plugins(plugin or [])
    contenders = parse_contenders(cache, base)
    matrix = Matrix(tuple(sizes[0]), tuple(sizes[1]), new, repetitions, cell_tokens)
    if not matrix.cells:
        raise UsageError(f"--cell-tokens {cell_tokens} leaves no cell; raise it or shorten -l.")
    settings = Settings(
        parts=chosen,
        matrix=matrix,
        policies=tuple(eviction.split(",") if eviction else eviction_policies()),
        text=text,
        n_chunks=chunks,
        n_rows=64,
        base_file=base_file,
        reuse=ReuseWorkload(),
        plugins=tuple(str(Path(p).resolve()) for p in plugin or []),
    )
    with progress.bar("compare-caches") as tell:
        found = compare(path, contenders, settings, tell)
    _print(found, as_json)  # first: a full disk must not take minutes of work along
    if out is not None:
        _write(found, out)


def _print(found: Comparison, as_json: bool) -> None:
    from longbow_quarrel.benchmarking import report

    print(json.dumps(found.as_dict()) if as_json else report.tables(found), end="")
    if as_json:
        print()


def _write(found: Comparison, folder: Path) -> None:
    from longbow_quarrel.benchmarking import plots, report

    command = shlex.join(["longbow-quarrel", *sys.argv[1:]])
    try:
        drawn = plots.draw(found, folder / "plots")
        pictures = [path.relative_to(folder).as_posix() for path in drawn]
        page = report.markdown(found, pictures, command)
        (folder / "report.md").write_text(page, encoding="utf-8")
        (folder / "report.json").write_text(
            json.dumps(found.as_dict(), indent=1) + "\n", encoding="utf-8"
        )
    except OSError as e:
        raise UsageError(
            f"{folder} cannot be written to ({e.strerror}); make room or choose another place."
        ) from None


def _text(file: Path | None) -> str:
    if file is not None:
        return read_text(file)
    # English prose that every Python brings along; whoever wants another text gives one.
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))
