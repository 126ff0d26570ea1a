"""One server's rollout: what the engine asks and reports, and the file behind it.

The engine's thread reports evidence; a thread of its own writes the file, at once after a decision
and else every second if there is news, and reads what ``rollout promote`` or ``rollback`` left
there. Nobody who serves requests waits for the disk.
"""

from __future__ import annotations

import copy
import logging
import os
import threading
from dataclasses import dataclass, replace
from typing import Any, Literal

from longbow_quarrel.config import RolloutConfig
from longbow_quarrel.errors import RolloutError
from longbow_quarrel.rollout.evidence import Arm, Comparison, Evidence, Load
from longbow_quarrel.rollout.guard import Guard, Phase, Verdict
from longbow_quarrel.rollout.spec import Plan
from longbow_quarrel.rollout.state import DamagedStateError, Server, State, StateFile, now

_log = logging.getLogger(__name__)
_SYNC_SECONDS = 1.0


@dataclass(frozen=True)
class Assignment:
    """What becomes of a request."""

    candidate: bool
    shadow: bool


class Control:
    """Methods may be called from any thread; none but :meth:`close` waits for the disk.

    Args:
        model: names what is served, by content.
        exact: see :class:`Guard`.

    Raises:
        RolloutError: the file cannot be used.
    """

    def __init__(
        self, plan: Plan, bounds: RolloutConfig, file: StateFile, *, model: str, exact: bool
    ) -> None:
        self.plan = plan
        self._file = file
        self._lock = threading.Lock()
        file.own()
        try:
            self._state = file.update(lambda found: _begin(found, plan, model))
        except DamagedStateError as e:
            aside = file.set_aside()
            _log.error("%s It is %s now, and the candidate stays out.", e, aside)
            self._state = file.update(lambda _: _distrust(plan, model))
        self._n_seen = self._state.last_number
        self._saved: State | None = None
        self.guard = Guard(bounds, self._state.evidence, exact=exact, promotes=plan.share > 0)
        self._both_loaded = self._state.phase == "running"
        self._news = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._keep, name="rollout", daemon=True)

    def start(self) -> None:
        """Keep the file and this in step from now on."""
        self._thread.start()

    # ---- What the engine asks and reports ---------------------------------------------------

    @property
    def phase(self) -> Phase:
        return self._state.phase

    def assign(self, request_id: str) -> Assignment:
        """Which arm a request takes, and whether it is compared; counts it."""
        with self._lock:
            phase, counts = self._state.phase, self._state.evidence.n_requests
            has_candidate = self._both_loaded and phase != "rolled_back"
            candidate = has_candidate and (
                phase == "promoted" or self.plan.takes_candidate(request_id)
            )
            shadow = has_candidate and self.plan.is_shadowed(request_id)
            counts["candidate" if candidate else "baseline"] += 1
            counts["shadow"] += shadow
            return Assignment(candidate, shadow)

    def stepped(self, arm: Arm, load: Load, seconds: float, at: float) -> None:
        """A step of an arm took so long; ``at``: monotonic seconds."""
        with self._lock:
            self._heed(self.guard.stepped(arm, load, seconds, at))

    def finished(self, arm: Arm, *, preempted: bool) -> None:
        """A request of an arm has ended well."""
        with self._lock:
            self._heed(self.guard.finished(arm, preempted=preempted))

    def compared(self, comparison: Comparison) -> None:
        """A text was computed on both arms."""
        with self._lock:
            self._heed(self.guard.compared(comparison))

    def skipped(self, reason: str) -> None:
        """A text was not compared."""
        with self._lock:
            self._state.evidence.n_skipped[reason] += 1

    def failed(self, reason: str, detail: str) -> None:
        """The candidate did what must never happen; it is rolled back."""
        with self._lock:
            self._heed(self.guard.failed(reason, detail))

    def candidate_has_gone(self) -> None:
        """The candidate's memory was given back; what is decided now waits for a restart."""
        self._both_loaded = False
        self._news.set()

    @property
    def evidence(self) -> Evidence:
        """A copy of what was seen."""
        with self._lock:
            return copy.deepcopy(self._state.evidence)

    @property
    def share(self) -> float:
        """Of requests that the candidate serves now."""
        return {"running": self.plan.share, "promoted": 1.0, "rolled_back": 0.0}[self.phase]

    def summary(self) -> dict[str, Any]:
        """Phase, arms and findings as plain data."""
        with self._lock:
            return {
                "phase": self._state.phase,
                "baseline": self._state.baseline,
                "candidate": self._state.candidate,
                "share": self.share,
                "findings": list(self.guard.findings()),
            }

    # ---- The file ---------------------------------------------------------------------------

    def sync(self) -> None:
        """Take over what users decided, and write what is known.

        Raises:
            RolloutError: the file cannot be written; the rollout goes on without it.
        """
        try:
            written = self._file.update(self._merge)
        except DamagedStateError as e:
            _log.error("%s It is %s now.", e, self._file.set_aside())
            written = self._file.update(self._merge)
        self._n_seen = written.last_number
        self._saved = written

    def close(self) -> None:
        """Let another server have the file, after it was written a last time."""
        self._stopping = True
        self._news.set()
        if self._thread.is_alive():
            self._thread.join()
        self._file.disown()

    def _keep(self) -> None:
        has_failed = False
        while True:
            stopping = self._stopping
            self._news.clear()
            try:
                if stopping or self._is_news():
                    self.sync()
                has_failed = False
            except RolloutError as e:
                if not has_failed:  # once, not every second
                    _log.error("the rollout goes on, but would not survive a restart: %s", e)
                has_failed = True
            if stopping:
                return
            self._news.wait(_SYNC_SECONDS)

    @property
    def _applies(self) -> Literal["now", "restart"]:
        return "now" if self._both_loaded else "restart"

    def _is_news(self) -> bool:
        """Whether the file or what is known has changed since they were one."""
        with self._lock:
            saved, state = self._saved, self._state
            is_saved = (
                saved is not None
                and saved.server is not None
                and saved.server.applies == self._applies
                and saved.decisions == state.decisions
                and saved.evidence == state.evidence
            )
        return not (is_saved and self._file.is_as_written())

    def _merge(self, found: State | None) -> State:
        with self._lock:
            state = self._state
            if found is not None and _is_same(found, state):
                self._take_over(found)
            state.findings = list(self.guard.findings())
            state.missing = self.guard.missing()
            state.server = Server(os.getpid(), now(), self._applies)
            return copy.deepcopy(state)

    def _take_over(self, found: State) -> None:
        """Users' decisions in the file. One that was made before the guard's latest became known
        is dropped, unless it is on the safe side: whoever made it did not know."""
        state = self._state
        news = [d for d in found.decisions if d.number > self._n_seen]
        is_overtaken = state.last_number > self._n_seen
        for decision in news:
            if decision.phase == state.phase:
                continue
            if is_overtaken and decision.phase != "rolled_back":
                _log.warning("%r came too late: %s", decision.text, state.decisions[-1].text)
                continue
            if state.decide(decision.phase, decision.reason, decision.text, decision.by):
                state.decisions[-1] = replace(state.decisions[-1], at=decision.at)
                _log.warning("rollout: %s (%s)", decision.phase, decision.text)
        self.guard.evidence = state.evidence  # a new beginning has a new one
        while state.last_number < found.last_number:  # no number is used twice
            state.note(state.phase, "no_change", "A decision changed nothing.", "server")

    def _heed(self, verdict: Verdict | None) -> None:
        if verdict is None:
            return
        if self._state.decide(verdict.phase, verdict.reason, verdict.text, "guard"):
            _log.warning("rollout: %s: %s", verdict.phase.replace("_", " "), verdict.text)
            self._news.set()


def _begin(found: State | None, plan: Plan, model: str) -> State:
    """Go on with what the file says, or start anew."""
    fresh = _fresh(plan, model)
    if found is None or not _is_same(found, fresh):
        fresh.decisions = [] if found is None else found.decisions
        fresh.note("running", "started", f"{_arms(plan)} starts.", "server")
        return fresh
    if (found.share, found.shadow) != (plan.share, plan.shadow):
        text = f"{_arms(plan)} goes on, at a share of {found.share:g} before."
        found.note(found.phase, "share", text, "server")
        found.share, found.shadow = plan.share, plan.shadow
    return found


def _distrust(plan: Plan, model: str) -> State:
    """Nobody knows whether the candidate had been rolled back; so it is."""
    state = _fresh(plan, model)
    text = "The state file was damaged; `rollout restart` lets the candidate in again."
    state.note("rolled_back", "state_damaged", text, "server")
    return state


def _fresh(plan: Plan, model: str) -> State:
    return State(model, plan.baseline.text, plan.candidate.text, plan.share, plan.shadow)


def _arms(plan: Plan) -> str:
    return (
        f"{plan.candidate.text} beside {plan.baseline.text}, for a share of {plan.share:g} of the "
        f"requests, with {plan.shadow:g} of all compared,"
    )


def _is_same(a: State, b: State) -> bool:
    return (a.model, a.baseline, a.candidate) == (b.model, b.baseline, b.candidate)
