"""Judges the evidence: when the candidate is rolled back, when it is promoted, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from longbow_quarrel.config import RolloutConfig
from longbow_quarrel.rollout.evidence import Arm, Comparison, Evidence, Load, StepTimes

Phase = Literal["running", "promoted", "rolled_back"]

_ALLOWED_SLOW = 0.02  # of steps beyond the p99 of 128 to 512 others: 1 to 1.6 % on average
_ALLOWED_DIVERGENT = 0.01  # of texts
_ALLOWED_PREEMPTED = 0.05  # of requests
_GROSS = 10.0  # times the bound, in a text of at least so many positions: no doubt is left
_GROSS_POSITIONS = 8
_TEXTS_TO_PROMOTE = 20


@dataclass(frozen=True)
class Verdict:
    """A decision and its reason, as a word for metrics and as a sentence with figures."""

    phase: Phase
    reason: str
    text: str


class Guard:
    """Takes evidence in and gives a verdict when there is one.

    Args:
        exact: whether both arms must compute the same bits: same masks, same types of K and V, on
            a device that promises it.
        promotes: whether the candidate may be promoted without being asked for it.
    """

    def __init__(
        self, bounds: RolloutConfig, evidence: Evidence, *, exact: bool, promotes: bool
    ) -> None:
        self.bounds = bounds
        self.evidence = evidence
        self.exact = exact
        self._promotes = promotes and bounds.rollout_promote_after > 0
        self.times = StepTimes()

    def stepped(self, arm: Arm, load: Load, seconds: float, now: float) -> Verdict | None:
        """A step of an arm took so long."""
        if arm == "baseline":
            self.times.add_baseline(load, seconds, now)
            return None
        slowdown = self.bounds.rollout_max_slowdown
        is_slow = self.times.judge_candidate(load, seconds, now, slowdown)
        if is_slow is None:
            return None
        test = self.evidence.latency
        test.add(is_slow, _ALLOWED_SLOW)
        if not test.alarmed or test.n_trials < self.bounds.rollout_min_steps:
            return None
        return _roll_back(
            "slow",
            f"{test.n_hits} of {test.n_trials} of its steps took longer than {slowdown:g} times "
            f"the baseline's p99 for the same load; {_ALLOWED_SLOW:.0%} may.",
        )

    def finished(self, arm: Arm, *, preempted: bool) -> Verdict | None:
        """A request of an arm has ended well; ``preempted``: it had to give blocks back."""
        seen = self.evidence
        seen.n_finished[arm] += 1
        seen.n_preempted[arm] += preempted
        if arm == "baseline":
            return None
        own = seen.n_preempted["baseline"] / max(seen.n_finished["baseline"], 1)
        allowed = min(max(_ALLOWED_PREEMPTED, 2 * own), 0.9)
        seen.preemption.add(preempted, allowed)
        if seen.preemption.alarmed:
            return _roll_back(
                "preempted",
                f"{seen.preemption.n_hits} of {seen.preemption.n_trials} of its requests were "
                f"refused a block while they ran; {allowed:.0%} may.",
            )
        return self._promotion()

    def compared(self, comparison: Comparison) -> Verdict | None:
        """A text was computed on both arms."""
        seen, bound = self.evidence, self.bounds.rollout_max_kl
        seen.add_positions(comparison)
        mean = comparison.mean_kl
        is_divergent = not mean <= bound  # also where it is no number
        seen.n_divergent["kl"] += is_divergent
        seen.n_divergent["bits"] += comparison.n_bits_differ > 0
        seen.n_divergent["tokens"] += comparison.n_tokens_differ > 0
        n = len(comparison.kl)
        if self.exact and comparison.n_bits_differ:
            return _roll_back(
                "bits",
                f"Logits of {comparison.n_bits_differ} of {n} positions of a text differ from the "
                f"baseline's (mean KL {mean:.3g}); both arms must compute the same bits.",
            )
        if self.exact and comparison.n_tokens_differ:
            return _roll_back(
                "tokens",
                f"{comparison.n_tokens_differ} of {n} tokens of a text are not what the baseline "
                "draws from its own logits; both arms must compute the same bits.",
            )
        if not mean <= bound * _GROSS and n >= _GROSS_POSITIONS:
            return _roll_back(
                "kl",
                f"A text of {n} positions has a mean KL of {mean:.3g} nats to the baseline, over "
                f"{_GROSS:g} times the bound of {bound:g}.",
            )
        seen.divergence.add(is_divergent, _ALLOWED_DIVERGENT)
        if seen.divergence.alarmed:
            return _roll_back(
                "kl",
                f"{seen.divergence.n_hits} of {seen.divergence.n_trials} texts have a mean KL "
                f"beyond {bound:g} nats to the baseline; {_ALLOWED_DIVERGENT:.0%} may.",
            )
        return self._promotion()

    def failed(self, reason: str, detail: str) -> Verdict:
        """What must never happen did: ``error``, ``refused`` or ``invariant``."""
        what = {
            "error": "A step of it failed",
            "refused": "It refused a text that fits in it, with nothing else in it",
            "invariant": "Its bookkeeping contradicts itself",
        }[reason]
        return _roll_back(reason, f"{what}: {detail.strip().rstrip('.')}.")

    def missing(self) -> list[str]:
        """What a promotion still needs."""
        seen, bounds = self.evidence, self.bounds
        needs = [
            ("requests of the candidate", seen.n_finished["candidate"], self._requests_needed),
            ("compared texts", seen.n_compared, _TEXTS_TO_PROMOTE),
            ("judged steps", seen.latency.n_trials, bounds.rollout_min_steps),
        ]
        lacking = [f"{n} of {needed} {what}" for what, n, needed in needs if n < needed]
        calm = {"divergence": seen.divergence, "latency": seen.latency, "blocks": seen.preemption}
        lacking += [f"{name} to calm down" for name, test in calm.items() if not test.is_calm]
        return lacking if self._promotes else [*lacking, "`rollout promote`"]

    @property
    def _requests_needed(self) -> int:
        return self.bounds.rollout_promote_after

    def _promotion(self) -> Verdict | None:
        if not self._promotes or self.missing():
            return None
        seen = self.evidence
        return Verdict(
            "promoted",
            "evidence",
            f"{seen.n_finished['candidate']} requests, {seen.n_compared} compared texts (mean KL "
            f"{seen.kl_sum / max(seen.n_positions, 1):.3g}, at most {seen.kl_max:.3g}) and "
            f"{seen.latency.n_trials} judged steps ({seen.latency.n_hits} slow) gave no reason "
            "against it.",
        )

    def findings(self) -> Sequence[str]:
        """What is known so far, in sentences."""
        seen, bounds = self.evidence, self.bounds
        n_requests = seen.n_requests
        lines = [
            f"Requests: {n_requests['candidate']} on the candidate, {n_requests['baseline']} on "
            f"the baseline; {n_requests['shadow']} to be compared, {seen.n_compared} were, "
            f"{sum(seen.n_skipped.values())} skipped.",
        ]
        if seen.n_positions:
            rule = (
                "must be the same bits"
                if self.exact
                else f"mean KL up to {bounds.rollout_max_kl:g}"
            )
            lines.append(
                f"Logits ({rule}): {seen.n_positions} positions, mean KL "
                f"{seen.kl_sum / seen.n_positions:.3g}, at most {seen.kl_max:.3g}, likeliest "
                f"token the same in {seen.n_agreeing / seen.n_positions:.2%}; texts that diverged: "
                + ", ".join(f"{kind} {n}" for kind, n in seen.n_divergent.items())
                + f"; score {_score(seen.divergence.score, seen.divergence.limit)}."
            )
        test = seen.latency
        lines.append(
            f"Speed: {test.n_hits} of {test.n_trials} judged steps beyond "
            f"{bounds.rollout_max_slowdown:g} times the baseline's p99 for their load "
            f"({_ALLOWED_SLOW:.0%} may); score {_score(test.score, test.limit)}{self._p99s()}."
        )
        test = seen.preemption
        lines.append(
            f"Blocks: {test.n_hits} of {test.n_trials} finished requests of the candidate had to "
            f"give theirs back, {seen.n_preempted['baseline']} of {seen.n_finished['baseline']} of "
            f"the baseline; score {_score(test.score, test.limit)}."
        )
        return lines

    def _p99s(self) -> str:
        own, other = self.times.p99("candidate"), self.times.p99("baseline")
        if own is None or other is None:
            return ""
        return (
            f"; p99 of the latest steps, whatever their load: candidate {own * 1e3:.3g} ms, "
            f"baseline {other * 1e3:.3g} ms"
        )


def _score(score: float, limit: float) -> str:
    return f"{score:.2f} of {limit:.2f}"


def _roll_back(reason: str, text: str) -> Verdict:
    return Verdict("rolled_back", reason, text)
