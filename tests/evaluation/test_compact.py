"""The compact rows' divergence against the sum over the whole vocabulary, and its bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longbow_quarrel.evaluation.compact import (
    CompactRows,
    Grid,
    RowDivergences,
    compress,
    divergences,
    divergences_from_log_probs,
    join_rows,
    log_softmax,
)

VOCAB = 500


def distributions(seed: int, n_rows: int, spread: float, noise: float) -> tuple[np.ndarray, ...]:
    """Logits of a base and of an engine that is ``noise`` off, and tokens that came next."""
    draw = np.random.default_rng(seed)
    p = (draw.standard_normal((n_rows, VOCAB)) * spread).astype(np.float32)
    q = (p + draw.standard_normal(p.shape) * noise + 3).astype(np.float32)
    return p, q, draw.integers(0, VOCAB, n_rows).astype(np.int32)


def whole(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    log_p, log_q = log_softmax(p), log_softmax(q)
    return (np.exp(log_p) * (log_p - log_q)).sum(axis=1)


def both(p: np.ndarray, q: np.ndarray, targets: np.ndarray, k: int, **kw: int) -> RowDivergences:
    positions = np.arange(len(p), dtype=np.int32)
    rows = compress(p, positions, targets, k=k, **({"n_samples": 16, "seed": 1} | kw))
    return divergences(rows, q, targets)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    k=st.sampled_from([1, 2, 20, 200, VOCAB - 1, VOCAB]),
    spread=st.sampled_from([0.0, 0.3, 2.0, 8.0, 40.0]),
    noise=st.sampled_from([0.0, 1e-4, 1e-2, 0.5, 5.0]),
)
def test_the_bounds_hold(seed: int, k: int, spread: float, noise: float) -> None:
    p, q, targets = distributions(seed, 4, spread, noise)
    found, exact = both(p, q, targets, k), whole(p, q)
    assert found.lower is not None
    assert found.upper is not None
    rounding = 1e-12 * (1 + exact)
    assert (found.lower <= exact + rounding).all()
    assert (exact <= found.upper + rounding).all()
    assert (found.kl >= found.lower - 1e-6).all()
    assert (found.same_top == (p.argmax(axis=1) == q.argmax(axis=1))).all()
    index = np.arange(4)
    np.testing.assert_allclose(found.losses, -log_softmax(q)[index, targets], rtol=1e-12)
    np.testing.assert_allclose(found.base_losses, -log_softmax(p)[index, targets], rtol=1e-6)


@pytest.mark.parametrize("noise", [0.01, 1.0])
def test_the_estimate_has_no_bias_and_its_error_is_known(noise: float) -> None:
    p, q, targets = distributions(0, 40, 1.0, noise)
    exact = whole(p, q)
    runs = [both(p, q, targets, 20, seed=seed) for seed in range(200)]
    estimates = np.array([run.kl for run in runs])
    errors = estimates.std(axis=0) / np.sqrt(len(runs))
    assert (np.abs(estimates.mean(axis=0) - exact) < 5 * errors + 1e-5 * exact).all()
    # Systematic draws vary no more than independent ones, of which the variance is told.
    told = np.sqrt(np.mean([run.variance for run in runs], axis=0))
    assert np.median(estimates.std(axis=0) / told) == pytest.approx(1, abs=0.25)


def test_many_rows_narrow_the_mean() -> None:
    p, q, targets = distributions(3, 400, 1.5, 0.05)
    found, exact = both(p, q, targets, 50), whole(p, q)
    error = np.sqrt(found.variance.sum()) / len(exact)
    assert abs(found.kl.mean() - exact.mean()) < 4 * error
    assert error < 0.01 * exact.mean()


def test_with_all_tokens_only_rounding_is_left() -> None:
    p, q, targets = distributions(1, 50, 2.0, 0.1)
    found, exact = both(p, q, targets, VOCAB), whole(p, q)
    assert found.upper is not None
    assert found.lower is not None
    np.testing.assert_allclose(found.kl, exact, rtol=2e-3)
    assert (found.upper - found.lower < 0.01 * exact + 1e-5).all()
    assert not found.variance.any()


def test_equal_predictions_do_not_diverge() -> None:
    p, _, targets = distributions(2, 20, 2.0, 0.0)
    found = both(p, p, targets, 50)
    assert np.abs(found.kl).max() < 1e-8
    assert found.same_top.all()


def test_a_swapped_pair_outside_the_kept_tokens_is_seen() -> None:
    """What the kept tokens and the mass of the rest cannot tell, the sample does."""
    p, _, targets = distributions(5, 30, 1.0, 0.0)
    order = np.argsort(p, axis=1)
    q = p.copy()
    rows = np.arange(len(p))[:, None]
    q[rows, order[:, 300:400]] = p[rows, order[:, 100:200]]
    q[rows, order[:, 100:200]] = p[rows, order[:, 300:400]]
    found, exact = both(p, q, targets, 20, n_samples=64), whole(p, q)
    assert found.lower is not None
    assert found.lower.max() < 1e-3 * exact.min()
    np.testing.assert_allclose(found.kl.mean(), exact.mean(), rtol=0.05)


def test_a_grid_keeps_numbers_within_half_a_step() -> None:
    values = np.random.default_rng(0).uniform(-30, 0, (50, 40))
    values[3] = -7.25
    grid = Grid.of(values)
    assert (np.abs(grid.values() - values) <= grid.half_step()[:, None]).all()
    assert grid.half_step().max() < 30 / 65535


def test_parts_and_joins() -> None:
    p, _, targets = distributions(4, 10, 2.0, 0.0)
    positions = np.arange(10, dtype=np.int32)

    def rows(part: slice) -> CompactRows:
        return compress(p[part], positions[part], targets[part], k=9, n_samples=5, seed=0)

    everything = rows(slice(0, 10))
    joined = join_rows([rows(slice(0, 4)), rows(slice(4, 10))])
    again = join_rows([everything[:7], everything[7:]])
    for other in (joined, again):
        assert (other.ids == everything.ids).all()
        assert (other.sample_ids == everything.sample_ids).all()
        assert (other.log_probs.values() == everything.log_probs.values()).all()


@pytest.mark.parametrize("spread", [2.0, 6.0, 20.0])
def test_rough_log_probabilities_of_a_sure_prediction(spread: float) -> None:
    """As llama-perplexity keeps them: rounding may leave less than nothing to all other tokens."""
    p, q, targets = distributions(7, 400, spread, 0.01)
    log_q = log_softmax(q)
    least = log_q.max(axis=1) - 16
    step = (16 / 65535) * np.ones(len(p))
    rough = least[:, None] + step[:, None] * np.maximum(
        np.floor((log_q - least[:, None]) / step[:, None] + 0.5), 0
    )
    rows = compress(p, np.arange(len(p), dtype=np.int32), targets, k=20, n_samples=16, seed=1)
    found = divergences_from_log_probs(rows, rough, targets, step / 2)
    assert np.abs(found.kl - whole(p, q)).max() < 5e-3
