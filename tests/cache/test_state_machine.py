"""Every strategy beside a naive twin, driven by hypothesis."""

from __future__ import annotations

import multiprocessing
import os
import random
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

from cache.machine import CACHES, CacheMachine, campaign, drive
from longbow_quarrel.config import usable_cores

# Moves that have found a fault, kept for good.
FOUND: dict[str, list[tuple[str, dict[str, Any]]]] = {
    # The parked text's memory was kept beside that of the longer run it moved to.
    "contiguous": [
        ("open", {"tokens": [0], "old": 0, "cut": 0, "room": 0}),
        ("release", {"index": 0}),
        ("open", {"tokens": [0], "old": 1, "cut": 1, "room": 15}),
        ("fork", {"index": 0}),
    ],
}


@pytest.mark.parametrize("name", CACHES)
def test_strategy_agrees_with_its_twin(name: str) -> None:
    drive(name, n_examples=30, n_steps=40)


@pytest.mark.parametrize("name", FOUND)
def test_found_cases_stay_mended(name: str) -> None:
    machine = type("Machine", (CacheMachine,), {"make": staticmethod(CACHES[name])})()
    for move, arguments in FOUND[name]:
        getattr(machine, move)(**arguments)
        machine.twin.check()
    machine.teardown()


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_campaign() -> None:
    """CACHE_TEST_MOVES (100,000 unless set) moves in all; CACHE_TEST_SEED repeats a failure.

    A failure names its cache and its seed, and what hypothesis shrank it to belongs in FOUND.
    """
    wanted = int(os.environ.get("CACHE_TEST_MOVES", "100000"))
    first = int(os.environ.get("CACHE_TEST_SEED", random.SystemRandom().randrange(2**32)))
    each = -(-wanted // len(CACHES))
    print(f"CACHE_TEST_SEED={first}")
    total = 0
    # Processes of their own: hypothesis is Python, and a machine keeps one core busy.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(usable_cores(), mp_context=context) as workers:
        runs = {name: workers.submit(campaign, name, first, each) for name in CACHES}
        for name, run in runs.items():
            _, seeds, n_moves = run.result()
            print(f"{name}: {n_moves} moves, seeds {seeds[0]} to {seeds[-1]}")
            total += n_moves
    print(f"{total} moves in all")
    assert total >= wanted
