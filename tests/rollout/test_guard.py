"""When the candidate is rolled back and when it is promoted."""

from __future__ import annotations

import math

import pytest

from longbow_quarrel.config import RolloutConfig
from longbow_quarrel.rollout.evidence import Comparison, Evidence, load_of
from longbow_quarrel.rollout.guard import Guard, Verdict

LOAD = load_of("decode", 4, 100)


def guard(*, exact: bool = False, **bounds: object) -> Guard:
    return Guard(RolloutConfig(**bounds), Evidence(), exact=exact, promotes=True)


def text(kl: float = 0.0, n: int = 20, bits: int = 0, tokens: int = 0) -> Comparison:
    return Comparison([kl] * n, n, bits, tokens)


def test_one_bit_is_enough_where_bits_must_agree():
    verdict = guard(exact=True).compared(text(1e-9, bits=1))
    assert verdict is not None
    assert (verdict.phase, verdict.reason) == ("rolled_back", "bits")
    assert guard().compared(text(1e-9, bits=1)) is None


def test_so_is_one_token():
    verdict = guard(exact=True).compared(text(tokens=1))
    assert verdict is not None
    assert verdict.reason == "tokens"
    assert guard().compared(text(tokens=1)) is None


@pytest.mark.parametrize("kl", [0.2, math.inf, math.nan])
def test_a_gross_divergence_needs_no_second_one(kl: float):
    verdict = guard().compared(text(kl))
    assert verdict is not None
    assert verdict.reason == "kl"
    assert guard().compared(text(kl, n=3)) is None  # too short to be sure


def test_a_single_text_beyond_the_bound_may_happen():
    watched = guard(rollout_promote_after=0)
    assert watched.compared(text(0.02)) is None
    assert all(watched.compared(text(0.001)) is None for _ in range(100))
    assert watched.compared(text(0.02)) is None


def test_many_may_not():
    watched = guard()
    verdicts = [watched.compared(text(0.02)) for _ in range(4)]
    assert verdicts[:3] == [None] * 3
    assert verdicts[3] is not None
    assert verdicts[3].reason == "kl"
    assert "4 of 4 texts" in verdicts[3].text


def step_all(watched: Guard, seconds: float, n: int, start: float) -> list[Verdict]:
    verdicts = [watched.stepped("candidate", LOAD, seconds, start + 0.1 * i) for i in range(n)]
    return [v for v in verdicts if v is not None]


def test_a_slow_candidate_is_rolled_back_after_enough_steps():
    watched = guard(rollout_min_steps=50)
    for i in range(200):
        watched.stepped("baseline", LOAD, 0.01, i * 0.01)
    assert step_all(watched, 0.012, 300, 2.0) == []
    [verdict, *_] = step_all(watched, 0.013, 9, 32.0)
    assert verdict.reason == "slow"
    early = guard(rollout_min_steps=50)
    for i in range(200):
        early.stepped("baseline", LOAD, 0.01, i * 0.01)
    assert step_all(early, 0.013, 49, 2.0) == []
    assert len(step_all(early, 0.013, 1, 10.0)) == 1


def test_preemptions_are_measured_against_the_baselines():
    watched = guard()
    verdicts = [watched.finished("candidate", preempted=True) for _ in range(6)]
    assert [v.reason for v in verdicts if v] == ["preempted"]
    crowded = guard()
    for _ in range(100):
        crowded.finished("baseline", preempted=True)
    assert not any(crowded.finished("candidate", preempted=True) for _ in range(100))


@pytest.mark.parametrize("reason", ["error", "refused", "invariant"])
def test_what_must_never_happen(reason: str):
    verdict = guard().failed(reason, "so it was")
    assert (verdict.phase, verdict.reason) == ("rolled_back", reason)
    assert "so it was" in verdict.text


def test_a_promotion_needs_everything():
    watched = guard(rollout_promote_after=10, rollout_min_steps=50)
    for i in range(200):
        watched.stepped("baseline", LOAD, 0.01, i * 0.01)
    assert step_all(watched, 0.01, 50, 2.0) == []
    assert [watched.compared(text()) for _ in range(20)] == [None] * 20
    assert [watched.finished("candidate", preempted=False) for _ in range(9)] == [None] * 9
    assert watched.missing() == ["9 of 10 requests of the candidate"]
    verdict = watched.finished("candidate", preempted=False)
    assert verdict is not None
    assert (verdict.phase, verdict.reason) == ("promoted", "evidence")


def test_suspicion_delays_a_promotion():
    watched = guard(rollout_promote_after=1, rollout_min_steps=1)
    for i in range(200):
        watched.stepped("baseline", LOAD, 0.01, i * 0.01)
    watched.stepped("candidate", LOAD, 0.01, 2.0)
    watched.compared(text(0.02))
    watched.compared(text(0.02))
    for _ in range(18):
        watched.compared(text())
    assert watched.finished("candidate", preempted=False) is not None or watched.missing()
    suspicious = guard(rollout_promote_after=1, rollout_min_steps=1)
    suspicious.evidence = watched.evidence
    suspicious.compared(text(0.02))
    suspicious.compared(text(0.02))
    assert "divergence to calm down" in suspicious.missing()
    assert suspicious.finished("candidate", preempted=False) is None


def test_without_a_number_of_requests_only_users_promote():
    watched = guard(rollout_promote_after=0, rollout_min_steps=1)
    assert "`rollout promote`" in watched.missing()
    assert watched.finished("candidate", preempted=False) is None


def test_findings_have_figures():
    watched = guard(exact=True)
    watched.compared(text())
    lines = " ".join(watched.findings())
    assert "must be the same bits" in lines
    assert "20 positions" in lines
