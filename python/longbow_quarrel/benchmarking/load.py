"""Requests through the engine, as a server's go, with the time of every token."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from longbow_quarrel.engine import Engine
from longbow_quarrel.observer import EngineObserver
from longbow_quarrel.request import Request
from longbow_quarrel.sampling import SamplingParams
from longbow_quarrel.telemetry import EngineMetrics
from longbow_quarrel.telemetry.reading import read

_STEPS_PER_SCRAPE = 8


@dataclass(frozen=True)
class RequestTimes:
    """Seconds, counted from the request's arrival where nothing else is said.

    Attributes:
        ttft: to the first token.
        gaps: between each two tokens (ITL).
        total: to the last token (end to end).
    """

    ttft: float
    gaps: tuple[float, ...]
    total: float

    @property
    def tpot(self) -> float:
        """Time per output token: the mean gap; 0 of a single token."""
        return sum(self.gaps) / len(self.gaps) if self.gaps else 0.0


@dataclass(frozen=True)
class Round:
    """What requests that arrived together gave.

    Attributes:
        seconds: from their arrival to the last token of all.
        decode_rate: tokens per second of the steps in which every request decoded; 0 if in none.
        n_generated: tokens of all of them.
        token_hash: of all generated tokens.
        peaks: the highest value seen of each gauge of ``WATCHED``, scraped while they ran.
        outputs: generated tokens of each.
    """

    requests: tuple[RequestTimes, ...]
    seconds: float
    decode_rate: float
    n_generated: int
    token_hash: str
    peaks: dict[str, float]
    outputs: tuple[tuple[int, ...], ...]


WATCHED = ("kv_cache_used_bytes", "kv_cache_capacity_bytes", "device_memory_allocated_bytes")


class Loader:
    """Sends requests to an engine that is idle, and watches its metrics as Prometheus would.

    Attributes:
        metrics: those that ``serve`` exports, of this engine.
    """

    def __init__(self, engine: Engine, model: str) -> None:
        self._engine = engine
        self.metrics = EngineMetrics(engine, model)
        self._stopwatch = _Stopwatch(self.metrics)
        engine.observer = self._stopwatch

    def close(self) -> None:
        """Leave the engine alone; without a ring of references it goes when its owner lets go."""
        self._engine.observer = EngineObserver()

    def scrape(self) -> dict[str, float]:
        """All metrics, by name and label."""
        return read(self.metrics.render().decode())

    def run(
        self, prompts: Sequence[NDArray[np.int32]], n_new: int, *, watch_peaks: bool = True
    ) -> Round:
        """``n_new`` greedy tokens of every prompt, all of which arrive at once.

        Args:
            watch_peaks: read the metrics now and then, with the clock stopped, for ``peaks``.

        Raises:
            OutOfMemoryError, ContextLengthError: a prompt that does not fit.
        """
        watch, engine = self._stopwatch, self._engine
        watch.reset(len(prompts))
        params = SamplingParams(max_tokens=n_new, temperature=0.0, ignore_eos=True)
        started = watch.now()
        requests = [
            engine.add(prompt.tolist(), params, is_read_as_it_comes=False)[0] for prompt in prompts
        ]
        peaks = dict.fromkeys(WATCHED, 0.0)
        n_steps = 0
        while any(r.finish_reason is None for r in requests):
            watch.got_first = False
            engine.step()
            n_steps += 1
            if watch_peaks and (watch.got_first or n_steps % _STEPS_PER_SCRAPE == 0):
                with watch.paused():
                    samples = self.scrape()
                peaks = {name: max(peak, samples[name]) for name, peak in peaks.items()}
        for request in requests:
            if request.error is not None:
                raise request.error
        times = [[t - started for t in watch.times[request]] for request in requests]
        tokens = np.array([r.output_ids for r in requests], np.int32)
        return Round(
            requests=tuple(
                RequestTimes(t[0], tuple(b - a for a, b in itertools.pairwise(t)), t[-1])
                for t in times
            ),
            seconds=max(t[-1] for t in times),
            decode_rate=watch.decode_rate(),
            n_generated=tokens.size,
            token_hash=hashlib.sha256(tokens.tobytes()).hexdigest()[:12],
            peaks=peaks,
            outputs=tuple(tuple(r.output_ids) for r in requests),
        )


@dataclass
class _Stopwatch(EngineObserver):
    """Notes when tokens come, on a clock that stands still while metrics are read."""

    inner: EngineObserver
    times: dict[Request, list[float]] = field(default_factory=dict)
    got_first: bool = False
    _n_requests: int = 0
    _pauses: float = 0.0
    _decodes: list[float] = field(default_factory=list)  # seconds of steps in which all decoded
    _last_step: float = 0.0

    def now(self) -> float:
        return time.perf_counter() - self._pauses

    @contextmanager
    def paused(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._pauses += time.perf_counter() - started

    def reset(self, n_requests: int) -> None:
        self.times = {}
        self._n_requests = n_requests
        self._decodes = []
        self._last_step = self.now()

    def decode_rate(self) -> float:
        seconds = sum(self._decodes)
        return len(self._decodes) * self._n_requests / seconds if seconds else 0.0

    def started(self, request: Request) -> None:
        self.inner.started(request)

    def stepped(self, n_tokens: int, phase: str) -> None:
        # From the end of the step before, so that scheduling and sampling belong to it.
        now = self.now()
        if phase == "decode" and n_tokens == self._n_requests:
            self._decodes.append(now - self._last_step)
        self._last_step = now
        self.inner.stepped(n_tokens, phase)

    def sampled(self, request: Request, gap_seconds: float | None) -> None:
        self.times.setdefault(request, []).append(self.now())
        self.got_first |= gap_seconds is None
        self.inner.sampled(request, gap_seconds)

    def preempted(self, request: Request, reason: str) -> None:
        self.inner.preempted(request, reason)

    def finished(self, request: Request) -> None:
        self.inner.finished(request)

    def refused(self, reason: str) -> None:
        self.inner.refused(reason)
