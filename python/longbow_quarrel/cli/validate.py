"""``validate``: the final gate."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from longbow_quarrel.cli import loading, progress
from longbow_quarrel.cli.options import Flags, ModelArgument, configured
from longbow_quarrel.config import EngineConfig, SourceConfig
from longbow_quarrel.errors import UsageError

if TYPE_CHECKING:
    from longbow_quarrel.validation.results import Report
    from longbow_quarrel.validation.subject import Subject

_SET_BY_THE_CHECKS = (
    *("cache", "context_length", "max_num_seqs", "max_num_batched_tokens", "window", "sinks"),
    *("prefix_caching", "prefix_cache_file", "kv_cache_memory"),
)


@configured(SourceConfig, EngineConfig, without=_SET_BY_THE_CHECKS)
def validate(
    flags: Flags,
    argument: ModelArgument = None,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Checks to run: greedy, perplexity, divergence, coherence, speed, llamacpp; "
            "all if unset.",
        ),
    ] = None,
    strategies: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="Cache strategies to check; all if unset."),
    ] = None,
    plugin: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Python file that registers strategies or policies."),
    ] = None,
    llamacpp: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="llama.cpp's binaries, to compare with."),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Reference of the model; the package's own if unset."),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Stored speeds; the package's own if unset."),
    ] = None,
    write_baseline: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Store this run's speeds there, if all bounds hold."),
    ] = None,
    extend: Annotated[
        bool,
        typer.Option("--extend", help="Keep what FILE has; noise is then also between runs."),
    ] = False,
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="PREFIX", help="Where the report goes."),
    ] = Path("validation"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check a model's outputs, quality, coherence and speed against references, and report.

    Without MODEL all models of the catalogue are checked. Writes PREFIX.md, PREFIX.html,
    PREFIX.json and plots; the exit code is 1 if a bound is broken.
    """
    source, config = flags.load(SourceConfig), flags.load(EngineConfig)
    model = argument or flags.values.get("model")

    from longbow_quarrel import cache, sources
    from longbow_quarrel.plugins import load_plugins
    from longbow_quarrel.validation import report as writer
    from longbow_quarrel.validation.baseline import Baseline
    from longbow_quarrel.validation.checks import CHECKS
    from longbow_quarrel.validation.run import validate as run

    load_plugins(plugin or [])
    names = _chosen("--only", only, list(CHECKS))
    if write_baseline is not None and "speed" not in names:
        raise UsageError("--write-baseline needs the check named speed.")
    if extend and write_baseline is None:
        raise UsageError("--extend goes with --write-baseline.")
    chosen = _chosen("--strategies", strategies, cache.strategies())
    stored = Baseline.packaged() if baseline is None else Baseline.read(baseline)
    if reference is not None and model is None:
        raise UsageError("--reference is of one model; name it.")
    models = [model] if model else [entry.name for entry in sources.catalog()]
    with progress.bar("validate") as tell:
        subjects = [
            _subject(source, config, name, tuple(chosen), reference, stored, llamacpp, tell)
            for name in models
        ]
        found = run(subjects, names, shlex.join(["longbow-quarrel", *sys.argv[1:]]))
    files = writer.write(found, output)
    if as_json:
        print(json.dumps(writer.as_dict(found)))
    else:
        _print(found, files)
    if found.broken:
        raise typer.Exit(1)
    if write_baseline is not None:
        _store(write_baseline, stored, subjects[0], found, extend=extend)


def _subject(
    source: SourceConfig,
    config: EngineConfig,
    model: str,
    strategies: tuple[str, ...],
    reference: Path | None,
    baseline: object,
    llamacpp: Path | None,
    tell: progress.Tell,
) -> Subject:
    from longbow_quarrel.config import usable_cores
    from longbow_quarrel.validation import reference as references
    from longbow_quarrel.validation.baseline import Baseline
    from longbow_quarrel.validation.bounds import Bounds
    from longbow_quarrel.validation.llamacpp import LlamaCpp
    from longbow_quarrel.validation.subject import Subject

    path = loading.fetch(source, model)
    if llamacpp is not None:
        LlamaCpp(llamacpp, path, config.n_threads or usable_cores())
    digest = references.file_sha256(path)
    data = references.find(digest) if reference is None else references.ReferenceData(reference)
    assert isinstance(baseline, Baseline)
    return Subject(
        path=path,
        name=path.stem if data is None else data.reference.model,
        sha256=digest,
        config=config,
        strategies=strategies,
        data=data,
        bounds=Bounds.for_kv_types(config.kv_type_k, config.kv_type_v),
        baseline=baseline,
        llamacpp=llamacpp,
        tell=lambda text: tell(0, 1, text),
    )


def _chosen(flag: str, given: str | None, known: list[str]) -> list[str]:
    if given is None:
        return known
    names = [name.strip() for name in given.split(",") if name.strip()]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        wrong = unknown[0] if unknown else given
        raise UsageError(f"{flag} takes {', '.join(known)}, not {wrong!r}.")
    return names


def _print(found: Report, files: list[Path]) -> None:
    for model in found.models:
        print(model.model)
        for check in model.checks:
            print(f"  {check.status:<8} {check.name}: {check.found}")
    print(f"{found.seconds:.0f} s; the report is in {files[1]} and {files[2]}.")
    print("Broken: " + "; ".join(found.broken) if found.broken else "All bounds hold.")


def _store(path: Path, stored: object, subject: Subject, found: Report, *, extend: bool) -> None:
    from longbow_quarrel.benchmarking import describe_machine
    from longbow_quarrel.device import make_device
    from longbow_quarrel.validation.baseline import Baseline, SpeedRow

    rows = tuple(
        SpeedRow(**row)
        for model in found.models
        for check in model.checks
        if check.name == "speed"
        for row in check.facts.get("rows", ())
    )
    if not rows:
        raise UsageError("The check named speed measured nothing; no baseline was written.")
    before = Baseline.read(path) if path.exists() else stored
    assert isinstance(before, Baseline)
    machine = describe_machine(make_device(subject.config))
    (before.extended if extend else before.updated)(machine, rows).write(path)
