"""Stored speeds by machine, and which operation took longer than it did."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from longbow_quarrel.benchmarking import Machine
from longbow_quarrel.errors import UsageError

LEAST_NOISE = 0.10  # of the speed; medians of five rounds on a shared machine differ by as much
_MOST_NOISE = 0.5  # half the speed is a regression, however restless the machine
_DEVIATIONS = 3


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SpeedRow(_Strict):
    """The speed of one workload.

    Attributes:
        label: as llama-bench writes it.
        samples: tokens per second of each round, all sequences together.
        runs: medians of several runs, apart in time, of which ``samples`` are the last one's.
        stages: seconds per token of each kind of operation, in a round of its own.
    """

    sha256: str
    model: str
    strategy: str
    label: str
    batch: int
    samples: tuple[float, ...] = Field(min_length=1)
    runs: tuple[float, ...] = ()
    stages: dict[str, float]

    @property
    def speed(self) -> float:
        return statistics.median(self.runs or self.samples)

    @property
    def noise(self) -> float:
        """Share of the speed by which rounds, or runs, differ without a reason."""
        several = [s for s in (self.samples, self.runs) if len(s) > 1]
        deviations = [_DEVIATIONS * statistics.stdev(s) / self.speed for s in several]
        return min(_MOST_NOISE, max(LEAST_NOISE, *deviations, 0))

    def same_work(self, other: SpeedRow) -> bool:
        mine, others = ((r.sha256, r.strategy, r.label, r.batch) for r in (self, other))
        return mine == others

    def same_in(self, rows: Iterable[SpeedRow]) -> SpeedRow | None:
        """The one of the same work, if there is one."""
        return next((row for row in rows if row.same_work(self)), None)

    def after(self, before: SpeedRow) -> SpeedRow:
        """This run in addition to those of ``before``."""
        runs = (*(before.runs or (before.speed,)), self.speed)
        return self.model_copy(update={"runs": runs})

    def regression(self, before: SpeedRow) -> str:
        """A sentence if this is slower than ``before`` by more than noise, else nothing."""
        if self.speed >= before.speed * (1 - max(self.noise, before.noise)):
            return ""
        return (
            f"{self.strategy} {self.label} x {self.batch} runs at {self.speed:.1f} tokens/s where "
            f"the baseline has {before.speed:.1f}; {self._guilty(before)}."
        )

    def _guilty(self, before: SpeedRow) -> str:
        lost = {
            stage: seconds - before.stages.get(stage, 0.0) for stage, seconds in self.stages.items()
        }
        total = sum(self.stages.values()) - sum(before.stages.values())
        if not lost or total <= 0:
            return "no operation alone accounts for it"
        stage = max(lost, key=lost.__getitem__)
        return (
            f"{stage} took {1e6 * self.stages[stage]:.1f} us per token instead of "
            f"{1e6 * before.stages.get(stage, 0.0):.1f}, {min(1.0, lost[stage] / total):.0%} of "
            "the loss"
        )


class _Entry(_Strict):
    machine: Machine
    rows: tuple[SpeedRow, ...]


class Baseline(_Strict):
    """Speeds of several machines."""

    entries: tuple[_Entry, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Baseline:
        """
        Raises:
            UsageError: it cannot be read, or holds something else.
        """
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except OSError as e:
            raise UsageError(
                f"{path} cannot be read ({e.strerror}); make it with --write-baseline."
            ) from None
        except (ValueError, TypeError, ValidationError):
            raise UsageError(
                f"{path} is no baseline of speeds; make one with --write-baseline."
            ) from None

    @classmethod
    def packaged(cls) -> Baseline:
        """The one that this package ships."""
        return cls.read(Path(__file__).parent / "reference" / "speed" / "baseline.json")

    def of(self, machine: Machine) -> tuple[SpeedRow, ...] | None:
        """Rows of machines of this class; None if there are none."""
        rows = [row for e in self.entries if e.machine.is_like(machine) for row in e.rows]
        return tuple(rows) or None

    def updated(self, machine: Machine, rows: tuple[SpeedRow, ...]) -> Baseline:
        """With ``rows`` in place of those of the same work on such a machine."""
        before = self.of(machine) or ()
        kept = tuple(b for b in before if b.same_in(rows) is None)
        others = tuple(e for e in self.entries if not e.machine.is_like(machine))
        return Baseline(entries=(*others, _Entry(machine=machine, rows=(*kept, *rows))))

    def extended(self, machine: Machine, rows: tuple[SpeedRow, ...]) -> Baseline:
        """With ``rows`` as another run beside those of the same work on such a machine."""
        before = self.of(machine) or ()
        olds = [row.same_in(before) for row in rows]
        runs = [row if old is None else row.after(old) for row, old in zip(rows, olds, strict=True)]
        return self.updated(machine, tuple(runs))

    def write(self, path: Path) -> None:
        """
        Raises:
            UsageError: it cannot be written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")
        except OSError as e:
            raise UsageError(f"{path} cannot be written ({e.strerror}).") from None
