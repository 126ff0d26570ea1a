"""``bench``: speed of prefill and decode at depth and batch, as llama-bench shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from longbow_quarrel.cli import loading, progress
from longbow_quarrel.cli.options import Flags, configured
from longbow_quarrel.cli.values import numbers
from longbow_quarrel.config import EngineConfig, SourceConfig
from longbow_quarrel.errors import UsageError

if TYPE_CHECKING:
    from longbow_quarrel.benchmarking import StepBench, Workload

_SIZED_BY_THE_ROWS = (
    *("context_length", "max_num_seqs", "prefix_caching", "prefix_cache_file"),
    "kv_cache_memory",
)


@configured(SourceConfig, EngineConfig, without=_SIZED_BY_THE_ROWS)
def bench(
    flags: Flags,
    prompt: Annotated[
        str, typer.Option("-p", "--n-prompt", metavar="N,...", help="Tokens of a prompt; 0: none.")
    ] = "512",
    gen: Annotated[
        str, typer.Option("-n", "--n-gen", metavar="N,...", help="Tokens to decode; 0: none.")
    ] = "128",
    depth: Annotated[
        str, typer.Option("-d", "--n-depth", metavar="N,...", help="Tokens there are before.")
    ] = "0",
    batch: Annotated[
        str, typer.Option("-b", "--batch", metavar="N,...", help="Texts side by side.")
    ] = "1",
    repetitions: Annotated[
        int, typer.Option("-r", "--repetitions", metavar="N", help="Rounds of every row.")
    ] = 5,
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="md|json|csv", help="How to print the rows.")
    ] = "md",
    plugin: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Python file that registers strategies or policies."),
    ] = None,
) -> None:
    """Measure a model's speed: prefill and decode, at depth, for several texts at once.

    Labels and columns are llama-bench's; beside them stand the bytes that a token needs from
    memory, the share of the memory bandwidth measured in the same run, and a hash of the result,
    which is the same for every strategy.
    """
    if output not in ("md", "json", "csv"):
        raise UsageError(f"-o takes md, json or csv, not {output!r}.")
    if repetitions < 1:
        raise UsageError(f"-r must be at least 1, not {repetitions}.")
    lists = (
        numbers(prompt, "-p", least=0),
        numbers(gen, "-n", least=0),
        numbers(depth, "-d", least=0),
        numbers(batch, "-b", least=1),
    )
    config = flags.load(EngineConfig)
    path = loading.fetch(flags.load(SourceConfig))

    from longbow_quarrel import _core, benchmarking
    from longbow_quarrel.benchmarking import llama_bench
    from longbow_quarrel.model_runner import ModelRunner
    from longbow_quarrel.plugins import load_plugins

    load_plugins(plugin or [])
    works = benchmarking.workloads(*lists)
    if not works:
        raise UsageError("There is nothing to measure: give -p or -n a number above 0.")
    with loading.spinner(f"Loading {path.name}"):
        sized = benchmarking.bench_config(_core.GGUFFile(str(path)), config, works)
        runner = ModelRunner(path, sized)
    records = _measure(benchmarking.StepBench(runner), works, repetitions)
    print(llama_bench.as_text(records, output), end="")


def _measure(bench: StepBench, works: list[Workload], rounds: int) -> list[dict[str, Any]]:
    """Rows of the run; all have the best bandwidth that was seen in it."""
    import datetime

    from longbow_quarrel.benchmarking import BandwidthMeter, describe_machine, llama_bench

    machine = describe_machine(bench.runner.device)
    about = llama_bench.subject(bench.runner, machine)
    meter = BandwidthMeter(machine.n_threads)
    meter.sample()
    rows = []
    with progress.bar("bench") as tell:
        for i, work in enumerate(works):
            tell(i, len(works), f"{work.label} x {work.batch}")
            now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
            rows.append((bench.measure(work, rounds), now))
            meter.sample()
    return [llama_bench.record(about, row, meter.best, now) for row, now in rows]
