"""Counts what happens in an engine, and exposes it together with what is counted natively."""

from __future__ import annotations

import copy

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from longbow_quarrel.engine import Engine
from longbow_quarrel.observer import EngineObserver
from longbow_quarrel.request import Request
from longbow_quarrel.telemetry.native import NativeCollector, arm_labels
from longbow_quarrel.telemetry.op_times import OpTimes
from longbow_quarrel.telemetry.registry import METRICS
from longbow_quarrel.telemetry.rollout import RolloutCollector
from longbow_quarrel.telemetry.tallies import Tallies

_PHASES = ("prefill", "decode", "mixed", "shadow")


class EngineMetrics(EngineObserver):
    """Metrics of one engine, in a registry of their own.

    Once made it observes the engine. :meth:`render` may be called from any thread and waits for no
    step.

    Args:
        model: the label by which dashboards tell models apart.
        steps_per_timed: see :class:`OpTimes`.
    """

    def __init__(self, engine: Engine, model: str, *, steps_per_timed: int | None = None) -> None:
        labels, *of_others = arm_labels(engine, model)
        tallies = Tallies([m for m in METRICS if m.source == "events"], labels)
        self._times = OpTimes(engine.runner, steps_per_timed)
        self.registry = CollectorRegistry()
        self.registry.register(NativeCollector(engine, model, self._times))
        self.registry.register(RolloutCollector(engine, model))
        self.registry.register(tallies)
        self._count_in(tallies)
        engine.observer = self
        for arm, others in zip(engine.arms[1:], of_others, strict=True):
            other = copy.copy(self)
            other._count_in(tallies.beside(others))
            arm.observer = other

    def _count_in(self, tallies: Tallies) -> None:
        self._tallies = tallies
        # Looked up once: these are counted in every step.
        self._generation_tokens = self._tallies.counter("generation_tokens_total")
        self._token_gap = self._tallies.histogram("inter_token_latency_seconds")
        self._iteration_tokens = self._tallies.histogram("iteration_tokens")
        self._attention = {
            phase: self._tallies.histogram("attention_kernel_seconds", phase) for phase in _PHASES
        }

    def render(self) -> bytes:
        """The metrics in Prometheus's text format."""
        return generate_latest(self.registry)

    # ---- What the engine tells, in its thread -----------------------------------------------

    def started(self, request: Request) -> None:
        self._count("prompt_tokens_total", n=request.n_prompt)
        self._observe("request_queue_time_seconds", request.timings.queue_seconds)

    def stepped(self, n_tokens: int, phase: str) -> None:
        self._iteration_tokens.observe(n_tokens)
        attention_seconds = self._times.stepped()
        if attention_seconds is not None:
            self._attention[phase].observe(attention_seconds)

    def sampled(self, request: Request, gap_seconds: float | None) -> None:
        self._generation_tokens.add(1)
        if gap_seconds is not None:
            self._token_gap.observe(gap_seconds)
            return
        self._observe("time_to_first_token_seconds", request.timings.ttft_seconds)
        self._observe("request_prefill_time_seconds", request.timings.prefill_seconds)

    def preempted(self, _request: Request, reason: str) -> None:
        self._count("preemptions_total", reason)

    def finished(self, request: Request) -> None:
        self._count("request_success_total", request.finish_reason or "")
        self._observe("e2e_request_latency_seconds", request.timings.total_seconds)
        if request.timings.first_token is not None:
            self._observe("request_decode_time_seconds", request.timings.decode_seconds)

    def refused(self, reason: str) -> None:
        self._count("requests_refused_total", reason)

    def _count(self, name: str, label: str = "", *, n: int = 1) -> None:
        self._tallies.counter(name, label).add(n)

    def _observe(self, name: str, seconds: float) -> None:
        self._tallies.histogram(name).observe(seconds)
