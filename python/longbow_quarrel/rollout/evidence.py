"""What was seen of the two arms: counts, and the sequential tests that judge them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Arm = Literal["baseline", "candidate"]

# Upper bounds, nats: equal up to rounding, another KV type, another text.
KL_BUCKETS = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
# Of decisions; the first ones are faults of a candidate.
REASONS = (
    *("bits", "tokens", "kl", "slow", "preempted", "refused", "error", "invariant"),
    *("evidence", "command"),
)
LARGEST_KL = 1e6  # stands for logits that are no numbers

_WINDOW_STEPS = 512  # of the baseline, per kind of step
_LEAST_WINDOW = 128
_OLDEST_SECONDS = 300.0  # a machine may have been faster an hour ago
_STALL_SECONDS = 0.05  # slow steps this close together have one cause
_QUANTILE = 0.99


@dataclass
class PageTest:
    """Tells when hits have become more frequent than is allowed (Page, "Continuous inspection
    schemes", Biometrika 1954).

    The score is the log-likelihood ratio of "the odds of a hit are ``odds`` times the allowed
    ones" to "they are the allowed ones", started anew whenever it falls below 0; so a fault that
    begins late is found as fast as one that was there from the first. As long as no more than the
    allowed share are hits, the chance of an alarm within m trials is at most m / ``threshold``.
    """

    odds: float
    threshold: float
    n_trials: int = 0
    n_hits: int = 0
    score: float = 0.0

    def add(self, hit: bool, allowed: float) -> None:
        """One trial; ``allowed``: the share of hits that is no fault."""
        self.n_trials += 1
        self.n_hits += hit
        step = -math.log1p(allowed * (self.odds - 1)) + (math.log(self.odds) if hit else 0.0)
        self.score = max(0.0, self.score + step)

    @property
    def limit(self) -> float:
        """The score that is an alarm."""
        return math.log(self.threshold)

    @property
    def alarmed(self) -> bool:
        return self.score >= self.limit

    @property
    def is_calm(self) -> bool:
        """Far enough from an alarm to decide for the candidate."""
        return self.score < self.limit / 2


@dataclass(frozen=True)
class Comparison:
    """One text computed on both arms, position by position.

    Attributes:
        kl: KL(baseline || candidate) in nats of every compared position.
        n_agreeing: positions where the likeliest token is the same.
        n_bits_differ: positions where not every logit is the same bits.
        n_tokens_differ: generated tokens that the baseline would not have drawn.
    """

    kl: Sequence[float]
    n_agreeing: int
    n_bits_differ: int
    n_tokens_differ: int

    @property
    def mean_kl(self) -> float:
        return sum(self.kl) / len(self.kl)


def _arms() -> dict[str, int]:
    return {"baseline": 0, "candidate": 0}


@dataclass
class Evidence:
    """Everything that decisions rest on; plain data, kept in the state file.

    Attributes:
        n_requests: by ``baseline``, ``candidate`` and ``shadow`` (compared, beside its arm).
        n_divergent: texts by ``bits``, ``tokens`` and ``kl`` (mean beyond the bound).
        kl_counts: positions per bucket of ``KL_BUCKETS``, the last one without a bound.
        n_skipped: texts that were to be compared and were not, by reason.
        n_events: decisions by reason.
    """

    n_requests: dict[str, int] = field(default_factory=lambda: _arms() | {"shadow": 0})
    n_finished: dict[str, int] = field(default_factory=_arms)
    n_preempted: dict[str, int] = field(default_factory=_arms)
    n_compared: int = 0
    n_positions: int = 0
    n_agreeing: int = 0
    kl_sum: float = 0.0
    kl_max: float = 0.0
    kl_counts: list[int] = field(default_factory=lambda: [0] * (len(KL_BUCKETS) + 1))
    n_divergent: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("bits", "tokens", "kl"), 0)
    )
    n_skipped: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("queue_full", "no_room", "rollout_ended"), 0)
    )
    n_events: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))
    divergence: PageTest = field(default_factory=lambda: PageTest(odds=25, threshold=1e4))
    latency: PageTest = field(default_factory=lambda: PageTest(odds=6, threshold=1e6))
    preemption: PageTest = field(default_factory=lambda: PageTest(odds=6, threshold=1e4))

    def add_positions(self, comparison: Comparison) -> None:
        """Count the positions of a compared text."""
        self.n_compared += 1
        self.n_positions += len(comparison.kl)
        self.n_agreeing += comparison.n_agreeing
        for kl in comparison.kl:
            value = min(kl, LARGEST_KL) if kl == kl else LARGEST_KL
            self.kl_sum += value
            self.kl_max = max(self.kl_max, value)
            bucket = next((i for i, b in enumerate(KL_BUCKETS) if value <= b), len(KL_BUCKETS))
            self.kl_counts[bucket] += 1


Load = tuple[str, int, int]


def load_of(phase: str, n_tokens: int, context_tokens: int) -> Load:
    """Steps with the same load should take the same time: equal phase, number of tokens and of
    tokens looked back on, each up to a factor of two."""
    return phase, n_tokens.bit_length(), context_tokens.bit_length()


class StepTimes:
    """Times of the baseline's latest steps by load: what the candidate's are held to."""

    def __init__(self) -> None:
        self._windows: dict[Load, deque[tuple[float, float]]] = {}
        self._bounds: dict[Load, tuple[int, float]] = {}  # n_added when it was taken, p99
        self._n_added: dict[Load, int] = {}
        self._stalled_until = -math.inf
        self.recent: dict[str, deque[float]] = {
            arm: deque(maxlen=_WINDOW_STEPS) for arm in ("baseline", "candidate")
        }

    def add_baseline(self, load: Load, seconds: float, now: float) -> None:
        window = self._windows.setdefault(load, deque(maxlen=_WINDOW_STEPS))
        window.append((now, seconds))
        while window[0][0] < now - _OLDEST_SECONDS:
            window.popleft()
        self._n_added[load] = self._n_added.get(load, 0) + 1
        self.recent["baseline"].append(seconds)

    def judge_candidate(
        self, load: Load, seconds: float, now: float, slowdown: float
    ) -> bool | None:
        """Whether a step took longer than ``slowdown`` times the baseline's p99 for its load.

        None where there is nothing to compare it with, or it belongs to a stall already counted.
        """
        self.recent["candidate"].append(seconds)
        bound = self._p99(load, now)
        if bound is None or now < self._stalled_until:
            return None
        is_slow = seconds > slowdown * bound
        if is_slow:
            self._stalled_until = now + _STALL_SECONDS
        return is_slow

    def p99(self, arm: Arm) -> float | None:
        """Of the latest steps, whatever their load; None if there are too few."""
        seconds = sorted(self.recent[arm])
        return _quantile(seconds) if len(seconds) >= _LEAST_WINDOW else None

    def _p99(self, load: Load, now: float) -> float | None:
        window = self._windows.get(load)
        if window is None or len(window) < _LEAST_WINDOW:
            return None
        if window[0][0] < now - _OLDEST_SECONDS:
            return None  # nothing new of late: the window is pruned when there is
        n, bound = self._bounds.get(load, (-_WINDOW_STEPS, 0.0))
        if self._n_added[load] - n >= _LEAST_WINDOW // 4:  # sorting is not for every step
            bound = _quantile(sorted(seconds for _, seconds in window))
            self._bounds[load] = self._n_added[load], bound
        return bound


def _quantile(ascending: Sequence[float]) -> float:
    return ascending[math.ceil(_QUANTILE * len(ascending)) - 1]
