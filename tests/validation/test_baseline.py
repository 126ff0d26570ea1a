"""When a speed is a regression, which operation is named, and whose machine it is."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from longbow_quarrel import sources
from longbow_quarrel.benchmarking import Machine
from longbow_quarrel.errors import UsageError
from longbow_quarrel.validation.baseline import Baseline, SpeedRow
from longbow_quarrel.validation.bounds import Bounds

STAGES = {"attention": 2e-3, "linear": 6e-3, "row-wise": 1e-3}
MACHINE = Machine("a processor", 2, 1 << 34, "Linux", "3.12", "0.1", "cpu", "avx2", 2, 0.1)


def row(*samples: float, **stages: float) -> SpeedRow:
    return SpeedRow(
        sha256="00",
        model="m",
        strategy="paged",
        label="tg64",
        batch=1,
        samples=samples,
        stages=STAGES | stages,
    )


@pytest.mark.parametrize(
    ("now", "slower"),
    [
        ((100.0, 101, 99), False),
        ((91.0, 92, 90), False),  # within 10 %
        ((88.0, 89, 88), True),
        ((80.0, 120, 60), False),  # too restless to tell
        ((30.0, 120, 20), True),  # but this is half the speed
        ((150.0, 150, 150), False),
    ],
)
def test_regressions(now: tuple[float, ...], slower: bool) -> None:
    before = row(100, 101, 99)
    assert bool(row(*now).regression(before)) == slower


def test_the_operation_that_lost_most_is_named() -> None:
    text = row(50, 50, 50, attention=3e-3, linear=15e-3).regression(row(100, 100, 100))
    assert "paged tg64 x 1 runs at 50.0 tokens/s where the baseline has 100.0" in text
    assert "linear took 15000.0 us per token instead of 6000.0, 90% of the loss" in text
    quicker = row(50, 50, 50, linear=1e-3).regression(row(100, 100, 100))
    assert "no operation alone" in quicker


def test_baselines_belong_to_machines(tmp_path: Path) -> None:
    other = dataclasses.replace(MACHINE, n_threads=1)
    path = tmp_path / "folder" / "speeds.json"
    Baseline().updated(MACHINE, (row(1),)).updated(other, (row(2),)).write(path)
    stored = Baseline.read(path)
    assert stored.of(dataclasses.replace(MACHINE, load=9.0, python="3.13")) == (row(1),)
    assert stored.of(other) == (row(2),)
    assert stored.of(dataclasses.replace(MACHINE, cpu="another")) is None
    longer = row(7).model_copy(update={"label": "tg128"})
    again = stored.updated(MACHINE, (row(3), longer))
    assert again.of(MACHINE) == (row(3), longer)
    assert again.of(other) == (row(2),)


def test_noise_between_runs() -> None:
    slow, quick = row(80, 81, 79), row(100, 101, 99)
    assert slow.regression(quick)
    longer = row(7).model_copy(update={"label": "tg128"})
    stored = Baseline().updated(MACHINE, (quick,)).extended(MACHINE, (row(90, 91, 89), longer))
    [both, alone] = stored.of(MACHINE) or ()
    assert (both.speed, both.runs, alone.runs) == (95, (100, 90), ())
    assert both.noise == pytest.approx(3 * 50**0.5 / 95)
    assert not slow.regression(both)
    assert row(70, 70, 70).regression(both)
    [_, third] = stored.extended(MACHINE, (row(95, 95),)).of(MACHINE) or ()
    assert third.runs == (100, 90, 95)


def test_the_packaged_one_has_the_catalogue_and_what_varies_between_runs() -> None:
    rows = [row for entry in Baseline.packaged().entries for row in entry.rows]
    assert {row.sha256 for row in rows} == {entry.sha256 for entry in sources.catalog()}
    assert all(len(row.runs) >= 3 and row.stages for row in rows)


@pytest.mark.parametrize("text", ["", "[]", '{"entries": 1}', '{"entries": [{}]}', '{"more": 1}'])
def test_other_files(tmp_path: Path, text: str) -> None:
    (tmp_path / "speeds").write_text(text)
    with pytest.raises(UsageError, match="no baseline of speeds"):
        Baseline.read(tmp_path / "speeds")


def test_the_coarsest_type_sets_the_limits() -> None:
    assert Bounds.for_kv_types("f16", "f32") == Bounds.for_kv_types("f16", "f16")
    assert Bounds.for_kv_types("q8_0", "q4_0") == Bounds.for_kv_types("q4_0", "f16")
    assert Bounds.for_kv_types("f16", "q8_0").kl_mean > Bounds.for_kv_types("f16", "f16").kl_mean
