"""What the options say, and who takes which arm."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longbow_quarrel.config import EngineConfig, RolloutConfig
from longbow_quarrel.errors import UsageError
from longbow_quarrel.rollout.spec import Plan, Spec


def plan(candidate: str = "paged:0.1", **options: object) -> Plan:
    return Plan.of(EngineConfig(), RolloutConfig(rollout=candidate, **options))


def test_a_candidate_has_a_share_and_options():
    found = plan("sliding_window:0.05,window=1024,ctk=q8_0", baseline="paged,block_size=32")
    assert (found.share, found.shadow) == (0.05, 0.02)
    assert found.candidate.text == "sliding_window,kv_type_k=q8_0,window=1024"
    config = found.candidate.configure(EngineConfig(n_threads=3))
    assert (config.cache, config.window, config.kv_type_k) == ("sliding_window", 1024, "q8_0")
    assert (config.kv_type_v, config.n_threads, config.block_size) == ("f16", 3, 16)
    assert found.baseline.configure(EngineConfig()).block_size == 32


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("paged", "NAME:SHARE"),
        ("paged:", "NAME:SHARE"),
        ("paged:2", "NAME:SHARE"),
        ("paged:-0.1", "NAME:SHARE"),
        ("paged:nan", "NAME:SHARE"),
        (":0.5", "expected NAME"),
        ("paged:0.5,threads=3", "expected option=value"),
        ("paged:0.5,window=", "expected option=value"),
        ("paged:0.5,window", "expected option=value"),
        ("contiguous:0.5", "is the baseline"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(text: str, message: str):
    with pytest.raises(UsageError, match=message):
        plan(text)


def test_values_out_of_range_are_the_configurations_to_refuse():
    with pytest.raises(UsageError, match="block_size"):
        plan("paged:0.5,block_size=7")


@given(st.text(), st.integers(0, 2**63))
def test_an_assignment_depends_on_seed_and_name_alone(name: str, seed: int):
    one, other = (plan("paged:0.3", shadow=0.3, rollout_seed=seed) for _ in range(2))
    assert one.takes_candidate(name) == other.takes_candidate(name)
    assert one.is_shadowed(name) == other.is_shadowed(name)


def test_a_larger_share_keeps_those_who_had_the_candidate():
    names = [f"request-{i}" for i in range(2000)]
    small, large = plan("paged:0.1"), plan("paged:0.4")
    assert all(large.takes_candidate(n) for n in names if small.takes_candidate(n))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_shares_come_out_right_and_independent(share: float):
    found = plan(f"paged:{share}", shadow=0.2)
    names = [f"request-{i}" for i in range(20_000)]
    candidate = [found.takes_candidate(n) for n in names]
    shadow = [found.is_shadowed(n) for n in names]
    both = sum(a and b for a, b in zip(candidate, shadow, strict=True))
    # Five standard deviations of a binomial are below 0.02.
    assert abs(sum(candidate) / len(names) - share) < 0.02
    assert abs(sum(shadow) / len(names) - 0.2) < 0.02
    assert abs(both / len(names) - share * 0.2) < 0.02


def test_a_spec_reads_what_it_writes():
    spec = Spec.parse("paged, window = 64 ,sinks=0", "rollout")
    assert Spec.parse(spec.text, "rollout") == spec
