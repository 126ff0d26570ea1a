"""The sequential tests keep what they promise: few false alarms, quick true ones."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longbow_quarrel.rollout.evidence import (
    KL_BUCKETS,
    LARGEST_KL,
    Comparison,
    Evidence,
    PageTest,
    StepTimes,
    load_of,
)

LOAD = load_of("decode", 4, 100)


def test_false_alarms_are_as_rare_as_promised():
    """At most m / threshold of runs of m trials; here 200 / 1000, at exactly the allowed share."""
    generator = random.Random(1)
    n_alarms = 0
    for _ in range(1000):
        test = PageTest(odds=6, threshold=1000)
        for _ in range(200):
            test.add(generator.random() < 0.02, 0.02)
            if test.alarmed:
                n_alarms += 1
                break
    assert 0 < n_alarms <= 200


@pytest.mark.parametrize("n_good", [0, 10_000])
def test_a_fault_is_found_as_fast_when_it_begins_late(n_good: int):
    test = PageTest(odds=6, threshold=1e6)
    for _ in range(n_good):
        test.add(False, 0.02)
    n_bad = 0
    while not test.alarmed:
        test.add(True, 0.02)
        n_bad += 1
    assert n_bad == 9  # log(1e6) / log(6 / 1.1)
    assert test.n_trials == n_good + 9


@given(st.lists(st.booleans(), max_size=200), st.floats(0.001, 0.5))
def test_the_score_is_the_largest_likelihood_ratio_of_any_end(hits: list[bool], allowed: float):
    """Its naive twin: the ratio over every last part of the trials."""
    test = PageTest(odds=5, threshold=100)
    for hit in hits:
        test.add(hit, allowed)
    suspected = 5 * allowed / (1 + 4 * allowed)
    ratios = [
        math.log((suspected if hit else 1 - suspected) / (allowed if hit else 1 - allowed))
        for hit in hits
    ]
    best = max((sum(ratios[i:]) for i in range(len(ratios) + 1)), default=0.0)
    assert test.score == pytest.approx(best, abs=1e-9)
    assert (test.n_trials, test.n_hits) == (len(hits), sum(hits))


def filled(times: StepTimes, seconds: float = 0.01, n: int = 200) -> float:
    for i in range(n):
        times.add_baseline(LOAD, seconds * (1 + i % 10 / 100), i * 0.01)
    return n * 0.01


def test_a_step_is_held_to_the_p99_of_its_own_load():
    times = StepTimes()
    now = filled(times)
    assert times.judge_candidate(LOAD, 0.0109 * 1.24, now, 1.25) is False
    assert times.judge_candidate(LOAD, 0.0109 * 1.26, now, 1.25) is True
    other = load_of("decode", 4, 1000)
    assert times.judge_candidate(other, 10.0, now + 1, 1.25) is None
    assert times.judge_candidate(load_of("prefill", 4, 100), 10.0, now + 1, 1.25) is None


def test_a_stall_counts_once():
    times = StepTimes()
    now = filled(times)
    slow = [times.judge_candidate(LOAD, 1.0, now + i * 0.01, 1.25) for i in range(12)]
    assert slow == [True, None, None, None, None, True, None, None, None, None, True, None]


def test_nothing_is_judged_by_too_few_steps_or_old_ones():
    times = StepTimes()
    now = filled(times, n=127)
    assert times.judge_candidate(LOAD, 1.0, now, 1.25) is None
    times.add_baseline(LOAD, 0.01, now)
    assert times.judge_candidate(LOAD, 1.0, now, 1.25) is True
    assert times.judge_candidate(LOAD, 1.0, now + 400, 1.25) is None
    times.add_baseline(LOAD, 0.01, now + 400)  # and what is old is forgotten
    assert times.judge_candidate(LOAD, 1.0, now + 400, 1.25) is None


def test_the_bound_follows_the_machine():
    times = StepTimes()
    filled(times)
    for i in range(600):  # everything else on the machine became busy
        times.add_baseline(LOAD, 0.1, 2 + i * 0.1)
    assert times.judge_candidate(LOAD, 0.11, 62.0, 1.25) is False
    assert times.p99("baseline") == 0.1


@given(st.lists(st.floats(0, 50) | st.sampled_from([math.nan, math.inf]), min_size=1, max_size=40))
def test_positions_are_counted_by_bucket(kl: list[float]):
    seen = Evidence()
    seen.add_positions(Comparison(kl, 3, 0, 0))
    known = [LARGEST_KL if not v <= LARGEST_KL else v for v in kl]
    assert seen.n_positions == sum(seen.kl_counts) == len(kl)
    assert seen.kl_max == max(known)
    assert seen.kl_sum == pytest.approx(sum(known))
    for i, bound in enumerate(KL_BUCKETS):
        assert sum(seen.kl_counts[: i + 1]) == sum(v <= bound for v in known)
