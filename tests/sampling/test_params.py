from __future__ import annotations

import dataclasses
import math
import pickle
from typing import Any

import numpy as np
import pytest

from longbow_quarrel.errors import UsageError
from longbow_quarrel.sampling import SamplingParams


def test_defaults() -> None:
    p = SamplingParams()
    assert (p.temperature, p.top_k, p.top_p, p.min_p) == (0.8, 40, 0.95, 0.05)
    assert (p.repetition_penalty, p.presence_penalty, p.frequency_penalty) == (1.0, 0.0, 0.0)
    assert (p.penalty_window, p.seed, p.max_tokens, p.n) == (64, None, 256, 1)
    assert (p.stop, p.stop_token_ids, p.ignore_eos, p.logit_bias) == ((), (), False, {})
    assert p.logprobs is None


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("max_tokens", [0, -1, 1.5, True, "8", None]),
        ("temperature", [-0.1, math.nan, math.inf, "1", None, True]),
        ("top_k", [-1, 0.5, 2**63]),
        ("top_p", [0, -0.5, 1.0001, math.nan]),
        ("min_p", [-0.1, 1.1, math.nan]),
        ("repetition_penalty", [0, -1, math.inf]),
        ("presence_penalty", [math.nan, math.inf, "0"]),
        ("frequency_penalty", [math.nan, -math.inf]),
        ("penalty_window", [-2, 1.5]),
        ("seed", [-1, 2**64, 1.0, "7"]),
        ("stop", [[""], [1], ["a", None]]),
        ("stop_token_ids", [[-1], ["a"], [1.5]]),
        ("ignore_eos", [1, None]),
        ("logit_bias", [{-1: 1.0}, {"a": 1.0}, {1: math.nan}, {1: math.inf}, {1: "x"}, [(1, 1.0)]]),
        ("logprobs", [-1, 1.5, True]),
        ("n", [0, -3]),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(field: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(UsageError, match=field) as refusal:
            SamplingParams(**{field: value})
        assert "\n" not in str(refusal.value)


def test_the_refusal_names_the_range() -> None:
    with pytest.raises(UsageError, match=r"^top_p must be above 0 and at most 1, not 1.5\.$"):
        SamplingParams(top_p=1.5)
    with pytest.raises(UsageError, match=r"^seed must be a whole number, 0 to 2\*\*64 - 1, not -1"):
        SamplingParams(seed=-1)
    with pytest.raises(UsageError, match=r"^max_tokens must be a whole number, 1 or more, not 0"):
        SamplingParams(max_tokens=0)


def test_values_are_taken_in_the_forms_that_users_have_them() -> None:
    values: dict[str, Any] = {
        "max_tokens": np.int64(3),
        "temperature": 1,
        "top_p": np.float32(0.5),
        "stop": "END",
        "stop_token_ids": [np.int32(4)],
        "logit_bias": {np.int64(2): -math.inf},
    }
    p = SamplingParams(**values)
    assert (p.max_tokens, p.temperature, p.top_p) == (3, 1.0, 0.5)
    assert type(p.max_tokens) is int
    assert type(p.temperature) is float
    assert (p.stop, p.stop_token_ids, p.logit_bias) == (("END",), (4,), {2: -math.inf})


def test_is_frozen_hashable_and_pickles() -> None:
    p = SamplingParams(stop=["a"], logit_bias={1: 2.0}, seed=2**64 - 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        p.top_k = 3  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(p)) == p
    assert hash(p) == hash(dataclasses.replace(p))


def test_changing_the_callers_containers_changes_nothing() -> None:
    stop, bias = ["a"], {1: 2.0}
    p = SamplingParams(stop=stop, logit_bias=bias)
    stop.append("b")
    bias[2] = 3.0
    assert (p.stop, p.logit_bias) == (("a",), {1: 2.0})


def test_make_sampler_checks_against_the_vocabulary() -> None:
    with pytest.raises(UsageError, match="logit_bias must name token ids from 0 to 9, not 10"):
        SamplingParams(logit_bias={10: 1.0}).make_sampler(10)
    with pytest.raises(UsageError, match="logprobs must be at most 10"):
        SamplingParams(logprobs=11).make_sampler(10)


def test_make_sampler_passes_every_option_on() -> None:
    logits = np.array([4.0, 3.0, 2.0, 1.0, 0.0], np.float32)

    def kept(**options: Any) -> list[tuple[int, float]]:
        neutral = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
        sampler = SamplingParams(**(neutral | options)).make_sampler(5)
        sampler.accept_all([0, 1, 1])
        return sampler.distribution(logits)

    plain = kept()
    assert [token_id for token_id, _ in plain] == [0, 1, 2, 3, 4]
    assert kept(penalty_window=0, repetition_penalty=2.0) == plain
    changed = [
        kept(temperature=0.5),
        kept(top_k=3),
        kept(top_p=0.6),
        kept(min_p=0.2),
        kept(repetition_penalty=2.0),
        kept(presence_penalty=2.0),
        kept(frequency_penalty=2.0),
        kept(frequency_penalty=2.0, penalty_window=1),
        kept(logit_bias={3: 1.0}),
    ]
    distinct = {tuple(distribution) for distribution in [plain, *changed]}
    assert len(distinct) == len(changed) + 1
    sampled = SamplingParams(logprobs=2).make_sampler(5).sample(logits, 0)
    assert len(sampled.top_logprobs) == 2
    assert SamplingParams(seed=2**63).make_sampler(5).seed == 2**63


def test_banned_tokens_win_over_bias() -> None:
    sampler = SamplingParams(temperature=0.0, logit_bias={1: 50.0}).make_sampler(
        3, banned_token_ids=[1]
    )
    assert sampler.sample(np.array([0.0, 5.0, 1.0], np.float32), 0).token_id == 2


def test_without_a_seed_every_sampler_gets_its_own() -> None:
    seeds = {SamplingParams().make_sampler(5).seed for _ in range(20)}
    assert len(seeds) == 20


def test_make_stop_matcher() -> None:
    matcher = SamplingParams(stop="b").make_stop_matcher()
    assert matcher.push("abc") == "a"
    assert matcher.matched == "b"
