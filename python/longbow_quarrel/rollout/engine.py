"""An engine with two arms: each has a cache and a scheduler, weights and device are shared.

The arms take turns, a step each. A request whose arm goes away goes on in the baseline, from its
tokens, as after a preemption.
"""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from longbow_quarrel.config import EngineConfig
from longbow_quarrel.engine import Engine, phase_of
from longbow_quarrel.observer import EngineObserver
from longbow_quarrel.request import Request
from longbow_quarrel.rollout.control import Control
from longbow_quarrel.rollout.evidence import Arm, load_of
from longbow_quarrel.rollout.shadow import Shadows, buffer_bytes
from longbow_quarrel.scheduler import ScheduledChunk, Scheduler

_log = logging.getLogger(__name__)
_ENDED_WELL = ("stop", "length")


class RolloutEngine(Engine):
    """The baseline's engine, with a candidate beside it until that is rolled back.

    Only requests that come through :meth:`submit` take part; :meth:`add` is the baseline alone.

    Args:
        shadow_time: share of the time that comparisons may take while others wait.

    Raises:
        OutOfMemoryError: the two together do not fit under the cap.
    """

    candidate: CandidateEngine | None = None

    def __init__(
        self,
        path: Path,
        baseline: EngineConfig,
        candidate: EngineConfig,
        control: Control,
        shadow_time: float,
    ) -> None:
        super().__init__(path, baseline)
        self.rollout = control
        self._control = control
        self.scheduler = _ArmScheduler.of(self, rescue=lambda _request, _reason: self._make_way())
        self._tap = self.scheduler.observer = _Tap("baseline", self)
        self.candidate = CandidateEngine(path, candidate, self, self._on_error, self._on_refusal)
        self.candidate.tap = self.candidate.scheduler.observer = _Tap("candidate", self)
        plan = self.candidate.runner.plan
        extra = {"scratch": buffer_bytes(self.vocab_size)}
        self.candidate.runner.plan = replace(plan, by_kind=plan.by_kind | extra)
        self.shadows: Shadows | None = Shadows(self, self.candidate, control, shadow_time)
        self._to_compare: set[Request] = set()
        self._preempted: set[Request] = set()
        self._last_arm: Engine = self

    # ---- What an engine offers --------------------------------------------------------------

    @property
    def arms(self) -> tuple[Engine, ...]:
        candidate = self.candidate
        return (self,) if candidate is None else (self, candidate)

    @property
    def observer(self) -> EngineObserver:
        return self._tap.downstream

    @observer.setter
    def observer(self, observer: EngineObserver) -> None:
        self._tap.downstream = observer

    @property
    def max_prompt_tokens(self) -> int:
        """The longest prompt that fits in both arms."""
        own, candidate = super().max_prompt_tokens, self.candidate
        return own if candidate is None else min(own, candidate.max_prompt_tokens)

    @property
    def has_work(self) -> bool:
        return any(map(_is_busy, self.arms)) or bool(self.shadows and self.shadows.has_work)

    def submit(self, leader: Request, request_id: str) -> None:
        self._follow_phase()
        assignment = self._control.assign(request_id)
        if assignment.shadow:
            self._to_compare.add(leader)
        takes_candidate = assignment.candidate and self.candidate is not None
        arm = self.candidate if takes_candidate and self.candidate else self
        arm.scheduler.add(leader)

    def cancel(self, request: Request) -> None:
        candidate = self.candidate
        if candidate is not None and candidate.holds(request):
            candidate.cancel(request)
        else:
            super().cancel(request)

    def step(self, *, meanwhile: Callable[[], None] | None = None) -> bool:
        """A step of one arm, the other's next time; then, if it is their turn, of a comparison."""
        self._follow_phase()
        arm = self._next_arm()
        if arm is not None:
            seconds = self._timed_step(arm, meanwhile)
            if self.shadows is not None:
                self.shadows.others_worked(seconds)
        elif meanwhile is not None:
            meanwhile()
        if self.shadows is not None:
            self.shadows.advance(is_idle=arm is None)
        self._follow_phase()
        return self.has_work

    # ---- Arms -------------------------------------------------------------------------------

    def _next_arm(self) -> Engine | None:
        busy = [arm for arm in self.arms if _is_busy(arm)]
        others = [arm for arm in busy if arm is not self._last_arm]
        return next(iter(others or busy), None)

    def _timed_step(self, arm: Engine, meanwhile: Callable[[], None] | None) -> float:
        """Let an arm make a step, and report how long it took; its seconds."""
        self._last_arm = arm
        scheduler = arm.scheduler
        assert isinstance(scheduler, _ArmScheduler)
        start = time.perf_counter()
        if arm is self:
            super().step(meanwhile=meanwhile)
        else:
            arm.step(meanwhile=meanwhile)
        end = time.perf_counter()
        if scheduler.n_tokens > 0 and arm in self.arms:
            context = sum(r.n_computed for r in scheduler.running)
            load = load_of(scheduler.phase, scheduler.n_tokens, context)
            name: Arm = "baseline" if arm is self else "candidate"
            self._control.stepped(name, load, end - start, end)
        return end - start

    def _follow_phase(self) -> None:
        if self._control.phase == "rolled_back" and self.candidate is not None:
            self._drop_candidate()

    def _drop_candidate(self) -> None:
        """The candidate's requests go on in the baseline; its memory goes back to the ledger."""
        candidate, self.candidate = self.candidate, None
        shadows, self.shadows = self.shadows, None
        assert candidate is not None
        if shadows is not None:
            shadows.close()
        scheduler = candidate.scheduler
        for request in reversed([*scheduler.running, *scheduler.waiting]):
            self._hand_over(candidate, request, "rolled_back")
        self._last_arm = self
        self._to_compare.clear()
        self._control.candidate_has_gone()

    def _hand_over(self, candidate: Engine, request: Request, reason: str) -> None:
        has_started = request.timings.started is not None
        try:
            candidate.scheduler.withdraw(request)
        except Exception:  # a faulty strategy may not even be able to let go
            _log.error("the candidate could not let go: %s", traceback.format_exc())
        self.scheduler.resume(request)
        if has_started:
            self._tap.downstream.preempted(request, reason)

    def _make_way(self) -> bool:
        return self.shadows is not None and self.shadows.make_way()

    def _on_error(self, error: Exception) -> None:
        """A step of the candidate failed."""
        self._control.failed("error", f"{type(error).__name__}: {error}")
        self._follow_phase()

    def _on_refusal(self, request: Request, reason: str) -> bool:
        """The candidate has no room for a request although nothing runs in it."""
        if self._make_way():
            return True
        candidate = self.candidate
        assert candidate is not None
        if reason == "no_memory":  # the ledger's, which both arms share
            self._hand_over(candidate, request, reason)
        else:
            self._control.failed("refused", f"{request.max_total} tokens, {reason}")
            self._follow_phase()
        return True

    # ---- What the taps hear -----------------------------------------------------------------

    def on_preempted(self, request: Request) -> None:
        self._preempted.add(request)
        self._make_way()

    def on_finished(self, arm: Arm, request: Request) -> None:
        was_preempted = request in self._preempted
        self._preempted.discard(request)
        is_compared = request in self._to_compare
        self._to_compare.discard(request)
        if request.finish_reason not in _ENDED_WELL:
            return
        if is_compared and self.shadows is not None:
            self.shadows.offer(request)
        self._control.finished(arm, preempted=was_preempted)


class CandidateEngine(Engine):
    """The other arm. Where it cannot go on it says so and ends no request."""

    tap: _Tap

    def __init__(
        self,
        path: Path,
        config: EngineConfig,
        beside: Engine,
        on_error: Callable[[Exception], None],
        rescue: Callable[[Request, str], bool],
    ) -> None:
        super().__init__(path, config, beside=beside)
        self._on_error = on_error
        self.scheduler = _ArmScheduler.of(self, rescue)

    @property
    def observer(self) -> EngineObserver:
        return self.tap.downstream

    @observer.setter
    def observer(self, observer: EngineObserver) -> None:
        self.tap.downstream = observer

    def holds(self, request: Request) -> bool:
        """Whether a request waits or runs here."""
        first = request if request.leader is None else request.leader
        return first in self.scheduler.running or first in self.scheduler.waiting

    def _fail(self, requests: Sequence[Request], error: Exception) -> None:  # noqa: ARG002
        self._on_error(error)


class _ArmScheduler(Scheduler):
    """Asks before it refuses a request for good, and knows what its last step computes.

    Attributes:
        phase, n_tokens: of that step.
    """

    phase = ""
    n_tokens = 0
    rescue: Callable[[Request, str], bool]

    @classmethod
    def of(cls, arm: Engine, rescue: Callable[[Request, str], bool]) -> _ArmScheduler:
        """``rescue``: given a request and a reason, whether to look again: there is room now, or
        the request has gone elsewhere."""
        scheduler = cls(
            arm.runner.cache,
            max_num_seqs=arm.config.max_num_seqs,
            max_num_batched_tokens=arm.runner.max_tokens,
            max_mixed_prefill_tokens=arm.config.max_mixed_prefill_tokens,
            observer=EngineObserver(),
        )
        scheduler.rescue = rescue
        return scheduler

    def schedule(self) -> list[ScheduledChunk]:
        self.n_tokens = 0
        chunks = super().schedule()
        self.phase = phase_of(chunks)
        self.n_tokens = sum(chunk.n_tokens for chunk in chunks)
        return chunks

    def _refuse(self, request: Request, reason: str) -> None:
        if not self.rescue(request, reason):
            super()._refuse(request, reason)


class _Tap(EngineObserver):
    """Hands on what a scheduler tells, and tells the rollout what that needs."""

    def __init__(self, arm: Arm, engine: RolloutEngine) -> None:
        self.downstream = EngineObserver()
        self._arm: Arm = arm
        self._engine = engine

    def started(self, request: Request) -> None:
        self.downstream.started(request)

    def preempted(self, request: Request, reason: str) -> None:
        self.downstream.preempted(request, reason)
        self._engine.on_preempted(request)

    def finished(self, request: Request) -> None:
        self.downstream.finished(request)
        self._engine.on_finished(self._arm, request)

    def refused(self, reason: str) -> None:
        self.downstream.refused(reason)


def _is_busy(arm: Engine) -> bool:
    return bool(arm.scheduler.running or arm.scheduler.waiting)
