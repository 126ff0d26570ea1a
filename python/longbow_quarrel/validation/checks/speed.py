"""Speed beside the stored one of such a machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from longbow_quarrel import _core
from longbow_quarrel.benchmarking import StepBench, Workload, bench_config, describe_machine
from longbow_quarrel.model_runner import ModelRunner
from longbow_quarrel.validation.baseline import LEAST_NOISE, SpeedRow
from longbow_quarrel.validation.results import Check, judged
from longbow_quarrel.validation.subject import Subject

NAME = "speed"
BOUND = (
    f"No workload is slower than the stored baseline of this class of machine by more than its "
    f"noise (three standard deviations, {LEAST_NOISE:.0%} at least)."
)


def check(subject: Subject) -> Check:
    rows: list[SpeedRow] = []
    for strategy in subject.strategies:
        subject.tell(f"{subject.name}, speed of {strategy}")
        runner = loaded(subject, strategy, subject.effort.works)
        rows += measure(subject, runner, strategy)
        machine = describe_machine(runner.device)
    stored = subject.baseline.of(machine)
    facts = {"rows": [row.model_dump(mode="json") for row in rows]}
    before = {i: row.same_in(stored or ()) for i, row in enumerate(rows)}
    table = [_cells(row, before[i]) for i, row in enumerate(rows)]
    known = [(row, old) for row, old in zip(rows, before.values(), strict=True) if old is not None]
    if not known:
        why = (
            f"No baseline exists for this model on this class of machine ({machine.cpu}, "
            f"{machine.n_cores} cores, {machine.device} {machine.isa}, {machine.n_threads} "
            "threads); store one with --write-baseline FILE and give it with --baseline FILE."
        )
        return Check(NAME, "skipped", BOUND, why, tuple(table), facts)
    complaints = [text for row, old in known if (text := row.regression(old))]
    worst = min(row.speed / old.speed for row, old in known)
    found = f"{len(known)} of {len(rows)} workloads have a baseline; the slowest is at {worst:.0%}."
    return judged(NAME, BOUND, found, complaints, table, facts)


def loaded(subject: Subject, strategy: str, works: Sequence[Workload]) -> ModelRunner:
    """The model with room for ``works``."""
    config = subject.configured(cache=strategy)
    file = _core.GGUFFile(str(subject.path))
    return ModelRunner(subject.path, bench_config(file, config, works))


def measure(subject: Subject, runner: ModelRunner, strategy: str) -> list[SpeedRow]:
    """Every workload, and in a round of its own the time of each kind of operation."""
    bench = StepBench(runner)
    rows = []
    for work in subject.effort.works:
        with bench.prepared(work) as batch:
            batch.run()
            seconds = [batch.run() for _ in range(subject.effort.rounds)]
            runner.executable.set_profiling(True)
            batch.run()
            stages = runner.op_seconds()
            runner.executable.set_profiling(False)
        n_tokens = work.batch * work.n_new
        rows.append(
            SpeedRow(
                sha256=subject.sha256,
                model=subject.name,
                strategy=strategy,
                label=work.label,
                batch=work.batch,
                samples=tuple(n_tokens / s for s in seconds),
                stages={name: s / n_tokens for name, s in stages.items()},
            )
        )
    return rows


def _cells(row: SpeedRow, before: SpeedRow | None) -> dict[str, Any]:
    return {
        "strategy": row.strategy,
        "test": row.label,
        "batch": row.batch,
        "tokens/s": row.speed,
        "baseline": None if before is None else before.speed,
        "of baseline": None if before is None else row.speed / before.speed,
        "noise": row.noise if before is None else max(row.noise, before.noise),
    }
