from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from longbow_quarrel import _core
from longbow_quarrel.errors import UsageError
from longbow_quarrel.sampling import SamplingParams

Logits = NDArray[np.float32]


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    weights: NDArray[np.float64] = np.exp(logits - logits.max())
    weights /= weights.sum()
    return weights


def naive_distribution(
    logits: Logits, *, temperature: float, top_k: int, top_p: float, min_p: float
) -> dict[int, float]:
    """The chain by the plainest means: a full stable sort and masks. Logits are finite or -inf."""
    x = logits.astype(np.float64)
    order = np.argsort(-x, kind="stable")
    if top_k:
        order = order[:top_k]
    if top_p < 1:
        reached = np.cumsum(softmax(x[order]))
        order = order[: int(np.searchsorted(reached, top_p, side="left")) + 1]
    if min_p:
        order = order[x[order] >= x.max() + math.log(min_p)]
    order = order[x[order] > -np.inf]
    return dict(zip(order.tolist(), softmax(x[order] / temperature).tolist(), strict=True))


def penalised(logits: Logits, history: Sequence[int], **options: Any) -> Logits:
    """Bias, then repetition penalty (CTRL), then presence and frequency penalties."""
    x = logits.astype(np.float64)
    for token_id, bias in options["logit_bias"].items():
        x[token_id] += bias
    window = options["penalty_window"]
    seen = (
        list(history) if window < 0 else list(history)[len(history) - min(window, len(history)) :]
    )
    for token_id in set(seen):
        r = options["repetition_penalty"]
        x[token_id] = x[token_id] / r if x[token_id] > 0 else x[token_id] * r
        x[token_id] -= options["presence_penalty"]
        x[token_id] -= options["frequency_penalty"] * seen.count(token_id)
    return x.astype(np.float32)


def assert_same(kept: list[tuple[int, float]], expected: dict[int, float]) -> None:
    assert {token_id for token_id, _ in kept} == set(expected)
    for token_id, probability in kept:
        assert probability == pytest.approx(expected[token_id], rel=1e-9, abs=1e-12)


# Quarters, so that ties are common and sums of probabilities rarely meet top_p by a hair.
logit_lists = st.lists(
    st.one_of(st.integers(-60, 60).map(lambda i: i / 4), st.just(-math.inf)),
    min_size=1,
    max_size=300,
).filter(lambda logits: max(logits) > -math.inf)


@given(
    logit_lists,
    st.sampled_from([0.0, 0.3, 0.8, 1.0, 5.0]),
    st.integers(0, 320),
    # Not a ratio that a few equal probabilities could meet exactly.
    st.sampled_from([1.0, 0.9537, 0.5317, 0.0113]),
    st.sampled_from([0.0, 0.0517, 0.4971, 1.0]),
)
@settings(max_examples=400, deadline=None)
def test_filters_keep_what_the_naive_twin_keeps(
    values: list[float], temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    logits = np.array(values, np.float32)
    sampler = _core.Sampler(
        len(values), temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p
    )
    kept = sampler.distribution(logits)
    if temperature == 0:
        assert kept == [(int(np.argmax(logits)), 1.0)]
        assert sampler.sample(logits, 9).token_id == kept[0][0]
        return
    assert_same(
        kept,
        naive_distribution(logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p),
    )


@given(
    st.lists(st.integers(-40, 40).map(lambda i: i / 4), min_size=20, max_size=200),
    st.lists(st.integers(0, 19), max_size=60),
    st.fixed_dictionaries(
        {
            "repetition_penalty": st.sampled_from([1.0, 1.25, 0.5]),
            "presence_penalty": st.sampled_from([0.0, 0.7, -1.3]),
            "frequency_penalty": st.sampled_from([0.0, 0.11, -0.4]),
            "penalty_window": st.integers(-1, 70),
            "logit_bias": st.dictionaries(
                st.integers(0, 19), st.sampled_from([-math.inf, -2.5, 3.25, 100.0]), max_size=5
            ),
        }
    ),
)
@settings(max_examples=200, deadline=None)
def test_bias_and_penalties_follow_the_formula(
    values: list[float], history: list[int], options: dict[str, Any]
) -> None:
    logits = np.array(values, np.float32)
    expected = penalised(logits, history, **options)
    if expected.max() == -np.inf:
        return
    neutral = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    sampler = SamplingParams(**neutral, **options).make_sampler(len(values))  # type: ignore[arg-type]
    sampler.accept_all(history[:30])
    for token_id in history[30:]:
        sampler.accept(token_id)
    twin = naive_distribution(expected, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0)
    kept = dict(sampler.distribution(logits))
    assert set(kept) == set(twin)
    for token_id, probability in kept.items():
        assert probability == pytest.approx(twin[token_id], rel=1e-5)


def chi_square(counts: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    expected = counts.sum() * probabilities
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**63, 2**64 - 1])
@pytest.mark.parametrize("stream", [0, 1])
@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "top_k": 8}, {"top_p": 0.9123}])
def test_draws_over_positions_follow_the_distribution(
    seed: int, stream: int, options: dict[str, Any]
) -> None:
    n_draws, vocab_size = 20_000, 12
    logits = np.linspace(1.5, -1.0, vocab_size, dtype=np.float32)
    sampler = _core.Sampler(vocab_size, seed=seed, stream=stream, **options)
    kept = dict(sampler.distribution(logits))
    batch = _core.sample_batch([sampler] * n_draws, np.tile(logits, (n_draws, 1)), range(n_draws))
    counts = np.bincount([s.token_id for s in batch], minlength=vocab_size)
    assert counts[[i for i in range(vocab_size) if i not in kept]].sum() == 0
    ids = sorted(kept)
    # 99.99th percentile of chi-square by the Wilson-Hilferty approximation (z = 3.719).
    dof = len(ids) - 1
    limit = dof * (1 - 2 / (9 * dof) + 3.719 * math.sqrt(2 / (9 * dof))) ** 3
    assert chi_square(counts[ids], np.array([kept[i] for i in ids])) < limit


@given(logit_lists, st.integers(0, 10))
@settings(max_examples=200, deadline=None)
def test_logprobs_are_log_softmax_of_the_models_logits(values: list[float], n: int) -> None:
    logits = np.array(values, np.float32)
    n = min(n, len(values))
    sampler = _core.Sampler(
        len(values), temperature=3.0, top_k=2, n_logprobs=n, logit_bias=[(0, 5.0)], seed=3
    )
    sampled = sampler.sample(logits, 4)
    with np.errstate(divide="ignore"):
        expected = np.log(softmax(logits.astype(np.float64)))
    finite = [(i, p) for i, p in sampled.top_logprobs]
    order = np.argsort(-logits, kind="stable")[:n]
    possible = [i for i in order.tolist() if logits[i] > -np.inf]
    assert [i for i, _ in finite] == possible
    for token_id, logprob in finite:
        assert logprob == pytest.approx(expected[token_id], rel=1e-9, abs=1e-12)
    assert sampled.logprob == pytest.approx(expected[sampled.token_id], rel=1e-9, abs=1e-12)


def sequence(seed: int, n: int = 64, *, stream: int = 0) -> list[int]:
    rows = np.random.default_rng(7).normal(0, 2, (n, 500)).astype(np.float32)
    params = SamplingParams(seed=seed, temperature=1.5, repetition_penalty=1.1)
    sampler = params.make_sampler(500, index=stream)
    tokens = []
    for position, row in enumerate(rows):
        tokens.append(sampler.sample(row, position).token_id)
        sampler.accept(tokens[-1])
    return tokens


def test_same_seed_same_tokens_and_other_seeds_and_streams_other_tokens() -> None:
    seeds = [0, 1, 2**31, 2**32, 2**63, 2**64 - 1]
    runs = [sequence(seed) for seed in seeds]
    assert [sequence(seed) for seed in seeds] == runs
    runs.append(sequence(1, stream=1))
    assert len({tuple(run) for run in runs}) == len(runs)


def test_a_recomputed_request_draws_the_same_token() -> None:
    rows = np.random.default_rng(1).normal(0, 1, (20, 100)).astype(np.float32)
    first = _core.Sampler(100, seed=5)
    tokens = [first.sample(row, p).token_id for p, row in enumerate(rows)]
    again = _core.Sampler(100, seed=5)
    assert again.sample(rows[13], 13).token_id == tokens[13]


def test_a_batch_gives_what_single_calls_give() -> None:
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 3, (5, 700)).astype(np.float32)
    samplers = [SamplingParams(seed=i, logprobs=i).make_sampler(700) for i in range(5)]
    positions = [0, 3, 3, 2**40, 9]
    batch = _core.sample_batch(samplers, logits, positions, _core.SamplerWorkspace(700))
    for sampler, row, position, sampled in zip(samplers, logits, positions, batch, strict=True):
        alone = sampler.sample(row, position)
        assert sampled.token_id == alone.token_id
        assert sampled.logprob == alone.logprob
        assert sampled.top_logprobs == alone.top_logprobs
    assert _core.sample_batch([], np.empty((0, 700), np.float32), []) == []


def test_bad_logits_and_arguments_are_refused_by_name() -> None:
    sampler = _core.Sampler(4)
    bad = np.zeros((2, 4), np.float32)
    bad[1, 2] = np.nan
    with pytest.raises(UsageError, match=r"row 1: .*NaN for token 2"):
        _core.sample_batch([sampler, sampler], bad, [0, 0])
    with pytest.raises(UsageError, match="-inf for every token"):
        sampler.sample(np.full(4, -np.inf, np.float32), 0)
    with pytest.raises(UsageError, match="expected 4 logits"):
        sampler.sample(np.zeros(5, np.float32), 0)
    with pytest.raises(UsageError, match="one row of logits per sampler"):
        _core.sample_batch([sampler], bad, [0])
    with pytest.raises(UsageError, match="positions"):
        _core.sample_batch([sampler, sampler], np.zeros((2, 4), np.float32), [0])
    with pytest.raises(UsageError, match="None among them"):
        _core.sample_batch([None], np.zeros((1, 4), np.float32), [0])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="token id below"):
        sampler.accept(4)
    with pytest.raises(UsageError, match="temperature"):
        _core.Sampler(4, temperature=-1.0)
    with pytest.raises(TypeError):
        _core.Sampler(4, seed=-1)
    with pytest.raises(TypeError):
        sampler.sample(np.zeros(4, np.float64), 0)


def test_the_batch_call_releases_the_gil() -> None:
    n, vocab_size = 400, 100_000
    samplers = [_core.Sampler(vocab_size, n_logprobs=0)] * n
    logits = np.broadcast_to(np.zeros((1, vocab_size), np.float32), (n, vocab_size)).copy()
    done = threading.Event()

    def work() -> None:
        _core.sample_batch(samplers, logits, list(range(n)))
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    ticks = 0
    while not done.is_set():
        time.sleep(0.001)
        ticks += 1
    thread.join()
    # With the GIL held this thread would wake once, after the call.
    assert ticks > 5


def test_workspace_reports_its_size() -> None:
    assert 8 * 262_144 < _core.SamplerWorkspace(262_144).size_bytes < 9 * 262_144


def ranked(logits: Logits) -> NDArray[np.uint32]:
    """Ids as a device names them: the largest logit first, the lower id among equals."""
    return np.argsort(-logits.astype(np.float64), kind="stable").astype(np.uint32)


@given(
    logit_lists,
    st.sampled_from([0.0, 0.3, 0.8, 5.0]),
    st.integers(1, 40),
    st.sampled_from([0.5, 0.937, 1.0]),
    st.sampled_from([0.0, 0.1]),
    st.integers(0, 2**32),
)
def test_the_best_tokens_are_enough(
    row: list[float], temperature: float, top_k: int, top_p: float, min_p: float, seed: int
) -> None:
    """The same token as from the whole row, and nothing else of the row is looked at."""
    logits = np.array([row], np.float32)
    sampler = _core.Sampler(
        len(row), temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed
    )
    expected = _core.sample_batch([sampler], logits, [3])[0].token_id
    n = sampler.n_best
    assert n == (1 if temperature == 0 else top_k if top_k < len(row) else 0)
    best = ranked(logits[0])[None, : n or 1]
    hidden = np.full_like(logits, np.nan)
    hidden[0, best[0]] = logits[0, best[0]]
    got = _core.sample_batch([sampler], hidden if n else logits, [3], None, best)
    assert got[0].token_id == expected


@pytest.mark.parametrize(
    "options",
    [
        {"logit_bias": [(0, 1.0)]},
        {"presence_penalty": 0.5, "penalty_window": -1},
        {"n_logprobs": 0},
        {"top_k": 0},
    ],
)
def test_some_samplers_need_the_whole_row(options: dict[str, Any]) -> None:
    assert _core.Sampler(10, **({"top_k": 3} | options)).n_best == 0
    assert _core.Sampler(10, temperature=0.0, top_k=5).n_best == 1


def test_best_tokens_that_make_no_sense_are_refused() -> None:
    sampler = _core.Sampler(4, temperature=0.0)
    logits = np.array([[0.0, 1.0, np.nan, 3.0]], np.float32)
    with pytest.raises(UsageError, match="expected best tokens below the vocabulary's size of 4"):
        _core.sample_batch([sampler], logits, [0], None, np.array([[4]], np.uint32))
    with pytest.raises(UsageError, match="expected best tokens for each of 1 rows, got 2"):
        _core.sample_batch([sampler], logits, [0], None, np.array([[3], [3]], np.uint32))
    with pytest.raises(UsageError, match="row 0"):  # a NaN is the best, so it is noticed
        _core.sample_batch([sampler], logits, [0], None, np.array([[2]], np.uint32))
