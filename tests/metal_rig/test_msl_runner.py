"""Planted mistakes are found; what is right passes."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from metal_rig import toolchain
from metal_rig.msl import runner
from metal_rig.msl.runner import Argument, Library, run_kernel

PACKAGES = toolchain.MSL_PACKAGES
SOURCE = Path(__file__).parent / "testdata" / "planted.metal"


@pytest.fixture(scope="module")
def planted() -> Library:
    return Library(SOURCE)


@pytest.fixture(scope="module")
def checked() -> Library:
    return Library(SOURCE, check_accesses=True)


def zeros(n: int) -> np.ndarray:
    return np.zeros(n, np.uint32)


@pytest.mark.parametrize(
    ("kernel", "arguments", "n_threads", "error", "message"),
    [
        ("missing_barrier", [zeros(128)], 128, runner.OrderDependence, "lane orders"),
        ("divergent_barrier", [zeros(96)], 96, runner.DivergentFlow, "not reached by every"),
        ("two_barriers", [zeros(96)], 96, runner.DivergentFlow, "different threadgroup_barriers"),
        ("divergent_simd", [zeros(64)], 64, runner.DivergentFlow, "only part"),
        ("divergent_helper", [zeros(64)], 64, runner.DivergentFlow, "only part"),
        ("divergent_loop", [zeros(64)], 64, runner.DivergentFlow, "only part"),
        ("early_return", [zeros(32)], 32, runner.DivergentFlow, "only part"),
        ("write_past_end", [zeros(64)], 64, runner.OutOfBounds, "byte 256 of a buffer of 256"),
        ("write_past_end", [zeros(63)], 63, runner.OutOfBounds, "next to a buffer of 252"),
        (
            "read_past_end",
            [zeros(8), zeros(64)],
            8,
            runner.OutOfBounds,
            "byte 256 of a buffer of 256",
        ),
        ("write_before_start", [zeros(2048)], 64, runner.OutOfBounds, "4 bytes before a buffer"),
        ("write_to_const", [zeros(8), zeros(8)], 8, runner.OutOfBounds, "of a read-only buffer"),
        ("read_past_end", [zeros(8), None], 8, runner.OutOfBounds, "is the argument bound"),
        ("division_by_zero", [zeros(8), zeros(8)], 8, runner.KernelTrap, "division by zero"),
        ("too_much_threadgroup_memory", [zeros(8)], 8, runner.InvalidLaunch, "32768 bytes"),
        ("missing_barrier", [zeros(8)], 1025, runner.InvalidLaunch, "1024 threads"),
        ("missing_barrier", [zeros(8)], 0, runner.InvalidLaunch, "empty"),
    ],
)
def test_planted_mistake_is_found(
    planted: Library,
    kernel: str,
    arguments: list[Argument],
    n_threads: int,
    error: type[runner.KernelError],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        run_kernel(planted, kernel, arguments, threadgroups=[1], threads=[n_threads])


def test_missing_simdgroup_barrier_is_found(planted: Library) -> None:
    with pytest.raises(runner.OrderDependence):
        run_kernel(
            planted,
            "missing_simdgroup_barrier",
            [zeros(32)],
            threadgroups=[1],
            threads=[32],
            threadgroup_bytes=[128],
        )


def test_threadgroup_memory_starts_as_nan(planted: Library) -> None:
    out = np.zeros(32, np.float32)
    for _ in range(2):
        run_kernel(planted, "uninitialised", [out], threadgroups=[3], threads=[32])
        assert np.isnan(out).all()


def test_endless_kernel_times_out(planted: Library) -> None:
    start = time.monotonic()
    with pytest.raises(runner.KernelTimeout, match="past its time limit"):
        run_kernel(
            planted,
            "endless",
            [zeros(256), zeros(1)],
            threadgroups=[8],
            threads=[32],
            timeout_seconds=0.3,
        )
    assert time.monotonic() - start < 5


def test_the_runtime_works_after_every_kind_of_failure(planted: Library) -> None:
    """Lanes abandoned in the middle leave nothing behind."""
    for _ in range(20):
        for kernel in ("divergent_simd", "write_past_end", "two_barriers"):
            with pytest.raises(runner.KernelError):
                run_kernel(planted, kernel, [zeros(96)], threadgroups=[6], threads=[96])
        out, divisors = zeros(8), np.arange(1, 9, dtype=np.uint32)
        run_kernel(planted, "division_by_zero", [out, divisors], threadgroups=[1], threads=[8])
        assert np.array_equal(out, 7 // divisors)


@pytest.mark.parametrize("kernel", ["race_between_threadgroups", "reads_neighbour"])
def test_race_between_threadgroups_is_found(checked: Library, kernel: str) -> None:
    with pytest.raises(runner.DataRace, match="of another threadgroup of the same dispatch"):
        run_kernel(checked, kernel, [zeros(128)], threadgroups=[4], threads=[32], order="forward")


def test_no_race_without_one(checked: Library) -> None:
    """The same kernels with one threadgroup; and reading what others read."""
    run_kernel(checked, "race_between_threadgroups", [zeros(1)], threadgroups=[1], threads=[32])
    out, divisors = zeros(8), np.arange(1, 9, dtype=np.uint32)
    run_kernel(checked, "division_by_zero", [out, divisors], threadgroups=[8], threads=[1])
    assert np.array_equal(out, 7 // divisors)


def test_results_do_not_depend_on_the_number_of_workers(planted: Library) -> None:
    values = np.arange(1, 4097, dtype=np.uint32)
    outs = []
    for n_workers in (1, 2, 5):
        out = zeros(4096)
        run_kernel(
            planted,
            "division_by_zero",
            [out, values],
            threadgroups=[64],
            threads=[64],
            n_workers=n_workers,
        )
        outs.append(out)
    assert np.array_equal(outs[0], 7 // values)
    assert np.array_equal(outs[0], outs[1])
    assert np.array_equal(outs[0], outs[2])
