"""All that ``compare-caches`` measures, in one record."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from longbow_quarrel import _core
from longbow_quarrel.benchmarking.bandwidth import BandwidthMeter
from longbow_quarrel.benchmarking.contender import Contender, with_policies
from longbow_quarrel.benchmarking.machine import Machine, describe_machine
from longbow_quarrel.benchmarking.quality import (
    QualityBench,
    QualityRow,
    against_file,
    depths_up_to,
)
from longbow_quarrel.benchmarking.reuse import ReuseRow, ReuseWorkload, run_reuse
from longbow_quarrel.benchmarking.speed import Matrix, SpeedBench, SpeedRow
from longbow_quarrel.device import make_device
from longbow_quarrel.memory_plan import Planner

PARTS = ("speed", "quality", "reuse")


@dataclass(frozen=True)
class Settings:
    """What to compare, and how thoroughly.

    Attributes:
        parts: which of :data:`PARTS`.
        policies: eviction policies with which plain ``paged`` runs the reuse workload.
        text: for quality.
        n_chunks: of the text.
        n_rows: positions scored at each depth of each chunk.
        base_file: predictions to compare with too, see :func:`against_file`.
        plugins: files that register strategies and policies, already loaded here.
    """

    parts: tuple[str, ...]
    matrix: Matrix
    policies: tuple[str, ...]
    text: str
    n_chunks: int
    n_rows: int
    base_file: Path | None
    reuse: ReuseWorkload
    plugins: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """What was found.

    Attributes:
        bandwidth: bytes per second that all threads read, the best of the run.
        settings: as plain data; the text is there by its hash.
        seconds: the whole took.
    """

    model: str
    machine: Machine
    date: str
    bandwidth: float
    contenders: list[str]
    settings: dict[str, Any]
    seconds: float = 0.0
    speed: list[SpeedRow] = field(default_factory=list)
    quality: list[QualityRow] = field(default_factory=list)
    reuse: list[ReuseRow] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        return dataclasses.asdict(self)


def check(model: Path, contenders: Sequence[Contender]) -> None:
    """Refuse a contender that this model cannot have, before anything is measured.

    Raises:
        UsageError: names what is wrong.
    """
    file = _core.GGUFFile(str(model))
    for contender in contenders:
        Planner(file, contender.config).plan()


def compare(
    model: Path,
    contenders: Sequence[Contender],
    settings: Settings,
    tell: Callable[[int, int, str], None],
) -> Comparison:
    """Measure everything; ``tell`` hears of steps done, of how many, and what comes next.

    Raises:
        QuarrelError: a contender could not be measured, or the text is too short.
    """
    started = time.perf_counter()
    policies = with_policies(contenders, settings.policies)
    check(model, [*contenders, *policies])
    steps = _Steps(tell)
    longest = max(settings.matrix.lengths)
    quality = None
    if "quality" in settings.parts:
        quality = QualityBench(
            model,
            settings.text,
            depths_up_to(longest, settings.matrix.lengths),
            base=contenders[0],
            n_chunks=settings.n_chunks,
            n_rows=settings.n_rows,
            tell=steps.next,
        )
        steps.total += quality.n_steps * (len(contenders) + 1)
        steps.total += len(contenders) if settings.base_file else 0
    if "speed" in settings.parts:
        steps.total += len(settings.matrix.cells) * settings.matrix.rounds * len(contenders)
    if "reuse" in settings.parts:
        steps.total += len(policies)
    machine = describe_machine(make_device(contenders[0].config))
    meter = BandwidthMeter(machine.n_threads)
    meter.sample()
    speed: list[SpeedRow] = []
    if "speed" in settings.parts:
        bench = SpeedBench(model, settings.plugins, meter, steps.next)
        speed = bench.run(settings.matrix, contenders)
    scores = quality.run(contenders) if quality else []
    if quality and settings.base_file:
        scores += against_file(model, contenders, settings.base_file, steps.next)
    reuse: list[ReuseRow] = []
    if "reuse" in settings.parts:
        reuse = run_reuse(model, policies, settings.reuse, steps.next)
    return Comparison(
        model=model.name,
        machine=machine,
        date=time.strftime("%Y-%m-%d", time.gmtime()),
        bandwidth=meter.best,
        contenders=[c.name for c in contenders],
        settings=_plain(settings),
        seconds=time.perf_counter() - started,
        speed=speed,
        quality=scores,
        reuse=reuse,
    )


class _Steps:
    """Counts what has been done."""

    def __init__(self, tell: Callable[[int, int, str], None]) -> None:
        self._tell = tell
        self._done = 0
        self.total = 0

    def next(self, text: str) -> None:
        """The step before is done; this one begins."""
        self._tell(self._done, self.total, text)
        self._done += 1


def _plain(settings: Settings) -> dict[str, Any]:
    facts = dataclasses.asdict(settings)
    facts["text"] = hashlib.sha256(settings.text.encode()).hexdigest()[:12]
    facts["base_file"] = settings.base_file and settings.base_file.name
    facts["plugins"] = [Path(p).name for p in settings.plugins]
    return facts
