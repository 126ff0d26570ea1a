"""Runs the checks of all models."""

from __future__ import annotations

import datetime
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace

from longbow_quarrel.benchmarking import describe_machine
from longbow_quarrel.device import make_device
from longbow_quarrel.validation.checks import CHECKS
from longbow_quarrel.validation.results import Check, ModelReport, Report
from longbow_quarrel.validation.subject import Subject


def validate(subjects: Sequence[Subject], names: Iterable[str], command: str) -> Report:
    """Run the named :data:`CHECKS`, on every model.

    A check that ends in an exception is a broken one.
    """
    started = time.perf_counter()
    names = tuple(names)
    reports = [_validate(subject, names) for subject in subjects]
    machine = describe_machine(make_device(subjects[0].config))
    return Report(
        command=command,
        date=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        machine=machine.sentence(),
        models=tuple(reports),
        seconds=time.perf_counter() - started,
    )


def _validate(subject: Subject, names: tuple[str, ...]) -> ModelReport:
    return ModelReport(
        model=subject.name,
        sha256=subject.sha256,
        reference="" if subject.data is None else subject.data.reference.made_by,
        checks=tuple(_timed(name, subject) for name in names),
    )


def _timed(name: str, subject: Subject) -> Check:
    started = time.perf_counter()
    try:
        check = CHECKS[name](subject)
    except Exception as e:
        text = f"It ended in {type(e).__name__}: {' '.join(str(e).split())}"
        check = Check(name, "broken", "The check runs to its end.", text)
    return replace(check, seconds=time.perf_counter() - started)
