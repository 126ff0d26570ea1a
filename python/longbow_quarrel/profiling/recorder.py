"""Records what an engine does: every stage on every thread, every event of the cache, every
request.

Native code writes spans into rings whose memory is taken before and charged to the ledger; Python
is told of a step's parts and of requests as an observer. Nothing of it is on unless a
:class:`Recorder` is.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from longbow_quarrel import _core
from longbow_quarrel.engine import Engine
from longbow_quarrel.observer import EngineObserver
from longbow_quarrel.request import Request

_SPANS = 1 << 17  # of a thread: 300 steps of a model with 30 layers
_EVENTS = 1 << 16
_NATIVE_STRATEGIES = (_core.ContiguousCache, _core.PagedCache)
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Track:
    """What one thread did.

    Attributes:
        spans: [n, 4] as ``_core.SpanLog.spans`` gives them.
        n_lost: older spans that there was no memory for.
    """

    name: str
    spans: Ints
    n_lost: int


@dataclass(frozen=True)
class Part:
    """A part of a step, in ns; see ``EngineObserver.began``. ``details``: what was computed."""

    name: str
    start: int
    end: int
    details: dict[str, int | str] = field(default_factory=dict)


@dataclass(frozen=True)
class CacheEvent:
    """Something that happened to the cache at ``at`` ns, and what a trace shows of it."""

    at: int
    name: str
    details: dict[str, int | str]


@dataclass(frozen=True)
class Level:
    """What the engine held at ``at`` ns, after a step."""

    at: int
    used: int  # blocks, like the next two
    cached: int
    free: int
    running: int  # requests, like the next
    waiting: int


@dataclass(frozen=True)
class RequestTimes:
    """When a request arrived, started, got its first token and ended, in ns; None: never."""

    arrived: int
    started: int | None
    first_token: int | None
    finished: int
    n_prompt: int
    n_generated: int
    cached_tokens: int
    miss_reason: str
    finish_reason: str


@dataclass(frozen=True)
class StageTime:
    """Wall time of one kind of work in all steps of a phase, lost spans included."""

    name: str
    phase: str
    n_runs: int
    seconds: float


@dataclass(frozen=True)
class Recording:
    """What was recorded. Times are in ns of one clock, ``_core.now_ns``.

    Attributes:
        tracks: what threads, or the GPU, did; the first is the engine's thread.
        names: what spans are called, by number.
        part_seconds: time of each part of all steps, those included that ``parts`` has lost.
        n_steps: by phase (``prefill``, ``decode`` or ``mixed``), like ``n_tokens``.
        n_lost_events: of the cache.
    """

    start: int
    end: int
    device: str
    strategy: str
    tracks: list[Track]
    names: list[str]
    stage_times: list[StageTime]
    cache_events: list[CacheEvent]
    n_lost_events: int
    parts: list[Part]
    part_seconds: dict[str, float]
    n_steps: dict[str, int]
    n_tokens: dict[str, int]
    levels: list[Level]
    requests: list[RequestTimes]

    @property
    def seconds(self) -> float:
        return (self.end - self.start) * 1e-9


class Recorder:
    """Records an engine inside a ``with`` block; :attr:`recording` is there after it.

    Enter and leave it while no step runs. It takes the place of the engine's observer meanwhile,
    and leaves the op timers off, so an engine whose metrics use them is not for recording.

    Args:
        spans: how many of the last spans are kept of each thread.
        events: how many of the last events of the cache.

    Raises:
        OutOfMemoryError: the ledger has no room for them.
    """

    def __init__(self, engine: Engine, *, spans: int = _SPANS, events: int = _EVENTS) -> None:
        runner = engine.runner
        self._engine = engine
        self._tracks = runner.executable.track_names
        self._log = _core.SpanLog(runner.ledger, len(self._tracks), spans)
        self._events = _core.CacheEventLog(runner.ledger, events)
        self._observer = _Observer(engine, spans)
        self._recording: Recording | None = None

    @property
    def observer(self) -> EngineObserver:
        """What the engine tells, meanwhile."""
        return self._observer

    @property
    def recording(self) -> Recording:
        assert self._recording is not None, "leave the with block first"
        return self._recording

    def __enter__(self) -> Recorder:
        runner = self._engine.runner
        self._before = self._engine.observer
        self._engine.observer = self._observer
        self._log.clear()
        self._events.clear()
        runner.cache.set_event_log(self._events)
        runner.executable.set_profiling(True)
        runner.executable.set_trace(self._log)
        self._start = _core.now_ns()
        return self

    def __exit__(self, *_: object) -> None:
        runner = self._engine.runner
        end = _core.now_ns()
        runner.executable.set_trace(None)
        runner.cache.set_event_log(None)
        times = [StageTime(t.name, t.phase, t.n_runs, t.seconds) for t in self._stage_times()]
        runner.executable.set_profiling(False)
        self._engine.observer = self._before
        seen = self._observer
        self._recording = Recording(
            start=self._start,
            end=end,
            device=runner.device.name,
            strategy=runner.cache.strategy,
            tracks=[
                Track(name, self._log.spans(i), self._log.n_lost(i))
                for i, name in enumerate(self._tracks)
            ],
            names=self._log.names,
            stage_times=times,
            cache_events=sorted(
                [*_native_events(self._events), *seen.events], key=lambda event: event.at
            ),
            n_lost_events=self._events.n_lost,
            parts=list(seen.parts),
            part_seconds={name: ns * 1e-9 for name, ns in seen.part_ns.items()},
            n_steps=seen.n_steps,
            n_tokens=seen.n_tokens,
            levels=list(seen.levels),
            requests=list(seen.requests),
        )

    def _stage_times(self) -> list[_core.StageTime]:
        return self._engine.runner.executable.stage_times()


def _native_events(log: _core.CacheEventLog) -> list[CacheEvent]:
    kinds, reasons = _core.CacheEventLog.KINDS, _core.CacheEventLog.MISS_REASONS
    events = []
    for at, kind, group, block, count, reason in log.events().tolist():
        name = kinds[kind]
        unit = "tokens" if name in ("hit", "miss", "fork") else "blocks"
        details: dict[str, int | str] = {unit: count}
        details |= {"group": group} if group >= 0 else {}
        details |= {"block": block} if block >= 0 else {}
        details |= {"reason": reasons[reason]} if reason >= 0 else {}
        events.append(CacheEvent(at, name, details))
    return events


@dataclass
class _Seen:
    """What an observer has seen; of what comes per step, the last ``limit``."""

    limit: int
    parts: deque[Part] = field(init=False)
    levels: deque[Level] = field(init=False)
    events: deque[CacheEvent] = field(init=False)
    requests: deque[RequestTimes] = field(init=False)
    part_ns: dict[str, int] = field(default_factory=dict)
    n_steps: dict[str, int] = field(default_factory=dict)
    n_tokens: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.parts = deque(maxlen=self.limit)
        self.levels = deque(maxlen=self.limit)
        self.events = deque(maxlen=self.limit)
        self.requests = deque(maxlen=self.limit)


class _Observer(EngineObserver, _Seen):
    """Remembers what the engine tells."""

    def __init__(self, engine: Engine, limit: int) -> None:
        _Seen.__init__(self, limit)
        self._engine = engine
        self._part: tuple[str, int] | None = None
        self._tells_itself = isinstance(engine.runner.cache, _NATIVE_STRATEGIES)
        # Requests are timed by Python's clock, which may start elsewhere than the logs'.
        self._offset = _core.now_ns() - time.perf_counter_ns()

    def began(self, part: str) -> None:
        now = _core.now_ns()
        if self._part is not None:
            name, start = self._part
            self.parts.append(Part(name, start, now))
            self.part_ns[name] = self.part_ns.get(name, 0) + now - start
        self._part = None if part == "idle" else (part, now)

    def started(self, request: Request) -> None:
        if self._tells_itself:
            return
        now, n_hit = _core.now_ns(), request.cached_tokens
        if n_hit:
            self.events.append(CacheEvent(now, "hit", {"tokens": n_hit}))
        missed: dict[str, int | str] = {"tokens": request.n_prompt - n_hit}
        self.events.append(CacheEvent(now, "miss", missed | {"reason": request.miss_reason}))

    def stepped(self, n_tokens: int, phase: str) -> None:
        now = _core.now_ns()
        computed = self.parts[-1]
        details: dict[str, int | str] = {"phase": phase, "tokens": n_tokens}
        self.parts[-1] = replace(computed, details=details)
        self.n_steps[phase] = self.n_steps.get(phase, 0) + 1
        self.n_tokens[phase] = self.n_tokens.get(phase, 0) + n_tokens
        cache, scheduler = self._engine.runner.cache.stats(), self._engine.scheduler
        free = cache.n_blocks - cache.n_used_blocks - cache.n_cached_blocks
        held = (cache.n_used_blocks, cache.n_cached_blocks, free)
        self.levels.append(Level(now, *held, len(scheduler.running), scheduler.n_waiting))

    def preempted(self, request: Request, reason: str) -> None:
        details: dict[str, int | str] = {"tokens": request.n_tokens, "reason": reason}
        self.events.append(CacheEvent(_core.now_ns(), "preempt", details))

    def refused(self, reason: str) -> None:
        self.events.append(CacheEvent(_core.now_ns(), "refuse", {"reason": reason}))

    def finished(self, request: Request) -> None:
        times = request.timings
        arrived, finished = self._ns(times.arrived), self._ns(times.finished)
        assert arrived is not None
        assert finished is not None
        self.requests.append(
            RequestTimes(
                arrived=arrived,
                started=self._ns(times.started),
                first_token=self._ns(times.first_token),
                finished=finished,
                n_prompt=request.n_prompt,
                n_generated=request.n_tokens - request.n_prompt,
                cached_tokens=request.cached_tokens,
                miss_reason=request.miss_reason,
                finish_reason=request.finish_reason or "",
            )
        )

    def _ns(self, seconds: float | None) -> int | None:
        return None if seconds is None else round(seconds * 1e9) + self._offset
