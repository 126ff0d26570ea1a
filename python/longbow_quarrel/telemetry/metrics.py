"""Counts what happens in an engine, and exposes it together with what is counted natively."""

from __future__ import annotations

import threading

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import generate_latest

from longbow_quarrel.engine import Engine
from longbow_quarrel.observer import EngineObserver
from longbow_quarrel.request import Request
from longbow_quarrel.telemetry.native import NativeCollector
from longbow_quarrel.telemetry.registry import ENGINE_LABELS, METRICS, PREFIX, Metric


class EngineMetrics(EngineObserver):
    """Metrics of one engine, in a registry of their own.

    Once made it observes the engine. :meth:`render` may be called from any thread and waits for no
    step.

    Args:
        model: the label by which dashboards tell models apart.
    """

    def __init__(self, engine: Engine, model: str) -> None:
        runner = engine.runner
        values = (model, runner.cache.strategy, runner.device.name)
        self.registry = CollectorRegistry()
        self._labels = dict(zip(ENGINE_LABELS, values, strict=True))
        self._runner = runner
        self._counters: dict[str, Counter] = {}
        self._histograms: dict[str, Histogram] = {}
        self._children: dict[tuple[str, str], Counter | Histogram] = {}
        self._lock = threading.Lock()  # of the children
        for spec in METRICS:
            if spec.source == "events":
                self._make(spec)
        self.registry.register(NativeCollector(engine, values))
        runner.executable.set_profiling(True)
        self._attention_seconds = self._total_attention_seconds()
        self._prompt_tokens = self._counter("prompt_tokens_total")
        self._generation_tokens = self._counter("generation_tokens_total")
        self._token_gap = self._histogram("inter_token_latency_seconds")
        self._iteration_tokens = self._histogram("iteration_tokens")
        engine.observer = self

    def render(self) -> bytes:
        """The metrics in Prometheus's text format."""
        return generate_latest(self.registry)

    # ---- What the engine tells, in its thread -----------------------------------------------

    def started(self, request: Request) -> None:
        self._prompt_tokens.inc(request.n_prompt)
        self._observe("request_queue_time_seconds", request.timings.queue_seconds)

    def stepped(self, n_tokens: int, phase: str) -> None:
        self._iteration_tokens.observe(n_tokens)
        total = self._total_attention_seconds()
        spent, self._attention_seconds = total - self._attention_seconds, total
        self._histogram("attention_kernel_seconds", phase).observe(spent)

    def sampled(self, request: Request, gap_seconds: float | None) -> None:
        self._generation_tokens.inc()
        if gap_seconds is not None:
            self._token_gap.observe(gap_seconds)
            return
        self._observe("time_to_first_token_seconds", request.timings.ttft_seconds)
        self._observe("request_prefill_time_seconds", request.timings.prefill_seconds)

    def preempted(self, _request: Request, reason: str) -> None:
        self._counter("preemptions_total", reason).inc()

    def finished(self, request: Request) -> None:
        self._counter("request_success_total", request.finish_reason or "").inc()
        self._observe("e2e_request_latency_seconds", request.timings.total_seconds)
        if request.timings.first_token is not None:
            self._observe("request_decode_time_seconds", request.timings.decode_seconds)

    def refused(self, reason: str) -> None:
        self._counter("requests_refused_total", reason).inc()

    # ---- Metrics by name --------------------------------------------------------------------

    def _make(self, spec: Metric) -> None:
        name, labels = PREFIX + spec.name, (*ENGINE_LABELS, *spec.labels)
        if spec.kind == "counter":
            self._counters[spec.name] = Counter(name, spec.help, labels, registry=self.registry)
        else:
            self._histograms[spec.name] = Histogram(
                name, spec.help, labels, registry=self.registry, buckets=spec.buckets
            )

    def _counter(self, name: str, label: str = "") -> Counter:
        child = self._child(name, label)
        assert isinstance(child, Counter)
        return child

    def _histogram(self, name: str, label: str = "") -> Histogram:
        child = self._child(name, label)
        assert isinstance(child, Histogram)
        return child

    def _observe(self, name: str, seconds: float) -> None:
        self._histogram(name).observe(seconds)

    def _child(self, name: str, label: str) -> Counter | Histogram:
        """The metric with these labels; looking it up once saves most of its cost."""
        key = (name, label)
        if key not in self._children:
            metric = self._counters.get(name) or self._histograms[name]
            own = next(spec.labels for spec in METRICS if spec.name == name)
            with self._lock:
                self._children[key] = metric.labels(**self._labels, **dict.fromkeys(own, label))
        return self._children[key]

    def _total_attention_seconds(self) -> float:
        return self._runner.op_seconds().get("attention", 0.0)
