"""Rows of log-probabilities in a few hundred numbers, and KL divergence from them.

Of a distribution p over the vocabulary a row keeps the k likeliest tokens T, the mass P of all
others, and m of these, drawn with probability p_i / P each (systematic sampling). For the
distribution q of another engine, known in full, with Q = sum of q outside T, the chain rule of
relative entropy (Cover and Thomas, Elements of Information Theory, 2.5) gives

    KL(p || q) = D + P * KL(p_rest || q_rest),
    D          = sum over T of p log(p / q) + P log(P / Q),

where p_rest and q_rest are the distributions within the rest. D needs nothing but the row and
never exceeds the divergence. The second term is estimated without bias from the sample by the
mean of r - 1 - log r with r = q_rest / p_rest: E[r] = 1, so its expectation is that of -log r, but
it is never negative and of second order where p and q are close (J. Schulman, "Approximating KL
divergence", 2020). No token of the rest is likelier than the least likely one of T, t, so

    KL(p_rest || q_rest) <= log(t / P) - log(q_min / Q).

Log-probabilities are stored as 16-bit numbers on a grid of their row's range. With half a step h,
and p renormalised, stored and true log-probabilities differ by at most 2 h. So the true D is
within (exp(2 h) - 1) * sum of p |log(p / q)| + h^2 / 2 of the stored one, p being the stored one
too: the second term is KL(true || stored) by Hoeffding's lemma, and by Pinsker's inequality the sum
is at most D + sqrt(2 D). In the sample an error of h is of second order like the terms themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_CODES = 65535  # steps of the grid
_ROUNDING = 2.0**-23  # relative, of numbers kept in float32


@dataclass(frozen=True)
class Grid:
    """Numbers [n_rows, n] on 16 bits: ``low + codes * (high - low) / 65535`` of each row."""

    low: NDArray[np.float32]
    high: NDArray[np.float32]
    codes: NDArray[np.uint16]

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Grid:
        if values.shape[1] == 0:
            nothing = np.zeros(len(values), np.float32)
            return cls(nothing, nothing, values.astype(np.uint16))
        low = values.min(axis=1).astype(np.float32)
        high = values.max(axis=1).astype(np.float32)
        step = (high.astype(np.float64) - low) / _CODES
        scaled = (values - low[:, None]) / np.where(step > 0, step, 1.0)[:, None]
        return cls(low, high, np.clip(np.rint(scaled), 0, _CODES).astype(np.uint16))

    def values(self) -> NDArray[np.float64]:
        low, high = self.low.astype(np.float64), self.high.astype(np.float64)
        return low[:, None] + self.codes * ((high - low) / _CODES)[:, None]

    def half_step(self) -> NDArray[np.float64]:
        """How far a number may be from what it was, [n_rows]; low and high were rounded too."""
        low, high = self.low.astype(np.float64), self.high.astype(np.float64)
        return (high - low) / (2 * _CODES) + _ROUNDING * np.maximum(np.abs(low), np.abs(high))


@dataclass(frozen=True)
class CompactRows:
    """What is kept of n_rows distributions.

    Attributes:
        positions: of the tokens that the rows follow, ascending, int32 [n_rows].
        losses: -log p of the tokens that came next, float32 [n_rows].
        tops: the likeliest tokens, int32 [n_rows].
        ids: the k likeliest tokens of each row, ascending, int32 [n_rows, k].
        log_probs: theirs, [n_rows, k].
        log_rest: logarithm of the mass of all other tokens, -inf if there are none, [n_rows].
        sample_ids: drawn from the rest, in proportion to p, int32 [n_rows, m].
        sample_log_probs: theirs, [n_rows, m].
    """

    positions: NDArray[np.int32]
    losses: NDArray[np.float32]
    tops: NDArray[np.int32]
    ids: NDArray[np.int32]
    log_probs: Grid
    log_rest: NDArray[np.float32]
    sample_ids: NDArray[np.int32]
    sample_log_probs: Grid

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, rows: slice) -> CompactRows:
        def part(grid: Grid) -> Grid:
            return Grid(grid.low[rows], grid.high[rows], grid.codes[rows])

        return CompactRows(
            self.positions[rows],
            self.losses[rows],
            self.tops[rows],
            self.ids[rows],
            part(self.log_probs),
            self.log_rest[rows],
            self.sample_ids[rows],
            part(self.sample_log_probs),
        )


@dataclass(frozen=True)
class RowDivergences:
    """KL(base || other) of rows in nats, float64 [n_rows] each.

    Attributes:
        kl: the estimate, without bias.
        lower, upper: between which the divergence lies for certain; None where the base does not
            tell.
        variance: of ``kl`` from drawing the sample, estimated.
        same_top: whether both find the same token the likeliest, bool [n_rows].
        losses, base_losses: -log-probability of the token that came next.
    """

    kl: NDArray[np.float64]
    lower: NDArray[np.float64] | None
    upper: NDArray[np.float64] | None
    variance: NDArray[np.float64]
    same_top: NDArray[np.bool_]
    losses: NDArray[np.float64]
    base_losses: NDArray[np.float64]


def log_softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Of each row, in double precision."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def compress(
    logits: NDArray[np.floating],
    positions: NDArray[np.int32],
    next_tokens: NDArray[np.int32],
    *,
    k: int,
    n_samples: int,
    seed: int,
) -> CompactRows:
    """Keep ``k`` tokens and a sample of ``n_samples`` of each row of logits [n_rows, vocab_size].

    The sample follows from ``seed`` and the row's position alone.
    """
    n_rows, vocab_size = logits.shape
    k = min(k, vocab_size)
    m = n_samples if k < vocab_size else 0
    ids = np.empty((n_rows, k), np.int32)
    sample_ids = np.empty((n_rows, m), np.int32)
    log_rest = np.full(n_rows, -np.inf, np.float32)
    log_p = log_softmax(logits)
    for i, row in enumerate(log_p):
        order = np.argpartition(row, vocab_size - k)
        ids[i] = np.sort(order[vocab_size - k :])
        if m:
            rest = np.sort(order[: vocab_size - k]).astype(np.int32)
            log_rest[i], chosen = _draw(row[rest], m, (seed, int(positions[i])))
            sample_ids[i] = rest[chosen]
    rows = np.arange(n_rows)
    return CompactRows(
        positions=positions.astype(np.int32),
        losses=(-log_p[rows, next_tokens]).astype(np.float32),
        tops=logits.argmax(axis=1).astype(np.int32),
        ids=ids,
        log_probs=Grid.of(np.take_along_axis(log_p, ids, axis=1)),
        log_rest=log_rest,
        sample_ids=sample_ids,
        sample_log_probs=Grid.of(np.take_along_axis(log_p, sample_ids, axis=1)),
    )


def join_rows(parts: Sequence[CompactRows]) -> CompactRows:
    """All rows of ``parts``, in their order."""

    def grid(name: str) -> Grid:
        grids = [getattr(part, name) for part in parts]
        return Grid(
            np.concatenate([g.low for g in grids]),
            np.concatenate([g.high for g in grids]),
            np.concatenate([g.codes for g in grids]),
        )

    return CompactRows(
        positions=np.concatenate([p.positions for p in parts]),
        losses=np.concatenate([p.losses for p in parts]),
        tops=np.concatenate([p.tops for p in parts]),
        ids=np.concatenate([p.ids for p in parts]),
        log_probs=grid("log_probs"),
        log_rest=np.concatenate([p.log_rest for p in parts]),
        sample_ids=np.concatenate([p.sample_ids for p in parts]),
        sample_log_probs=grid("sample_log_probs"),
    )


def _draw(
    log_p: NDArray[np.float64], n: int, seed: tuple[int, int]
) -> tuple[float, NDArray[np.int64]]:
    """log of the sum of p, and ``n`` indices in proportion to p by systematic sampling."""
    highest = log_p.max()
    cumulated = np.cumsum(np.exp(log_p - highest))
    points = (np.arange(n) + np.random.default_rng(seed).random()) / n * cumulated[-1]
    chosen = np.minimum(np.searchsorted(cumulated, points, side="right"), len(log_p) - 1)
    return float(highest + np.log(cumulated[-1])), chosen


def divergences(
    rows: CompactRows, logits: NDArray[np.float32], next_tokens: NDArray[np.int32]
) -> RowDivergences:
    """KL(rows || softmax(logits)), logits [n_rows, vocab_size]; see the head of this module."""
    log_q = log_softmax(logits)
    q = np.exp(log_q)
    np.put_along_axis(q, rows.ids.astype(np.int64), 0.0, axis=1)  # what is left has no rounding
    return _divergences(rows, log_q, q.sum(axis=1), next_tokens)


def divergences_from_log_probs(
    rows: CompactRows,
    log_q: NDArray[np.float64],
    next_tokens: NDArray[np.int32],
    error: NDArray[np.float64],
) -> RowDivergences:
    """The same of log-probabilities [n_rows, vocab_size] that are known roughly.

    The mass outside the kept tokens is taken to be what these leave of one, since a file of
    llama-perplexity shows very unlikely tokens likelier than they are; but never less than what an
    ``error`` of each log-probability, [n_rows], may have taken. Bounds mean nothing then.
    """
    kept = np.exp(np.take_along_axis(log_q, rows.ids.astype(np.int64), axis=1)).sum(axis=1)
    return _divergences(rows, log_q, np.maximum(1 - kept, error * kept), next_tokens)


def _divergences(
    rows: CompactRows,
    log_q: NDArray[np.float64],
    q_rest: NDArray[np.float64],
    next_tokens: NDArray[np.int32],
) -> RowDivergences:
    index = np.arange(len(rows))
    log_q_rest = np.log(np.maximum(q_rest, np.finfo(np.float64).tiny))
    log_p_rest = rows.log_rest.astype(np.float64)
    p_rest = np.exp(log_p_rest)

    log_p = rows.log_probs.values()
    log_p += (np.log1p(-p_rest) - np.log(np.exp(log_p).sum(axis=1)))[:, None]
    ratio = log_p - np.take_along_axis(log_q, rows.ids.astype(np.int64), axis=1)
    known = (np.exp(log_p) * ratio).sum(axis=1)
    if rows.sample_ids.shape[1]:
        known += p_rest * (log_p_rest - log_q_rest)
    h = rows.log_probs.half_step() + _ROUNDING * np.where(p_rest > 0, -log_p_rest, 0)
    slack = np.expm1(2 * h) * (np.maximum(known, 0) + np.sqrt(2 * np.maximum(known, 0))) + h * h / 2

    estimate, variance, most = np.zeros((3, len(rows)))
    if rows.sample_ids.shape[1]:
        log_r = np.take_along_axis(log_q, rows.sample_ids.astype(np.int64), axis=1)
        log_r -= rows.sample_log_probs.values()
        log_r += (log_p_rest - log_q_rest)[:, None]
        r = np.exp(log_r)
        terms = r - 1 - log_r
        estimate = p_rest * terms.mean(axis=1)
        variance = p_rest**2 * terms.var(axis=1, ddof=min(1, terms.shape[1] - 1)) / terms.shape[1]
        least = rows.log_probs.low + 2 * h
        most = p_rest * ((least - log_p_rest) - (log_q.min(axis=1) - log_q_rest))
        most = np.maximum(most, 0)
    return RowDivergences(
        kl=known + estimate,
        lower=np.maximum(known - slack, 0),
        upper=known + most + slack,
        variance=variance,
        same_top=log_q.argmax(axis=1) == rows.tops,
        losses=-log_q[index, next_tokens],
        base_losses=rows.losses.astype(np.float64),
    )
