"""What a validation finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["holds", "broken", "skipped"]


@dataclass(frozen=True)
class Check:
    """One bound, and what was found.

    Attributes:
        bound: what must hold, as a sentence.
        found: what was seen, or why the check was skipped, as a sentence.
        rows: the figures; all have the same keys.
        facts: further figures for the report's data and plots.
    """

    name: str
    status: Status
    bound: str
    found: str
    rows: tuple[dict[str, Any], ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def judged(
    name: str,
    bound: str,
    found: str,
    complaints: Sequence[str],
    rows: Sequence[dict[str, Any]] = (),
    facts: dict[str, Any] | None = None,
) -> Check:
    """A check that holds if there are no ``complaints``, which stand in the report otherwise."""
    status: Status = "broken" if complaints else "holds"
    text = " ".join([*complaints, found]) if complaints else found
    return Check(name, status, bound, text, tuple(rows), facts or {})


def skipped(name: str, bound: str, why: str) -> Check:
    return Check(name, "skipped", bound, why)


@dataclass(frozen=True)
class ModelReport:
    """All checks of one model."""

    model: str
    sha256: str
    reference: str
    checks: tuple[Check, ...]


@dataclass(frozen=True)
class Report:
    """A whole validation.

    Attributes:
        machine: in one line.
        command: that gives this report.
        date: ISO 8601.
    """

    command: str
    date: str
    machine: str
    models: tuple[ModelReport, ...]
    seconds: float

    @property
    def broken(self) -> list[str]:
        """Names of the checks that do not hold."""
        return [
            f"{model.model}: {check.name}"
            for model in self.models
            for check in model.checks
            if check.status == "broken"
        ]
