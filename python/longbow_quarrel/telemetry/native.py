"""Metrics that nobody counts in Python: read from native counters when Prometheus asks.

Reading stops nothing: the cache publishes its counts through a sequence lock, the ledger has a
mutex of its own, and the device's times are atomics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from longbow_quarrel import _core
from longbow_quarrel.engine import Engine
from longbow_quarrel.telemetry.op_times import OpTimes
from longbow_quarrel.telemetry.registry import ENGINE_LABELS, METRICS, PREFIX
from longbow_quarrel.telemetry.tallies import cumulative

_SPECS = {m.name: m for m in METRICS}
_NO_LABELS: tuple[str, ...] = ()
Values = Mapping[tuple[str, ...], float]


class NativeCollector(Collector):
    """Reads an engine's native counters and its scheduler's queues.

    Args:
        labels: values of ``ENGINE_LABELS``.
    """

    def __init__(self, engine: Engine, labels: tuple[str, ...], times: OpTimes) -> None:
        self._engine = engine
        self._times = times
        self._labels = labels

    def describe(self) -> list[Metric]:
        return []  # so that registering does not collect

    def collect(self) -> Iterator[Metric]:
        cache = self._engine.runner.cache.stats()
        for name, values in self._values(cache).items():
            yield self._family(name, values)
        yield self._lifetimes(cache)

    def _values(self, cache: _core.CacheStats) -> dict[str, Values]:
        runner, scheduler = self._engine.runner, self._engine.scheduler
        n_free = cache.n_blocks - cache.n_used_blocks - cache.n_cached_blocks
        usage = cache.n_used_blocks / cache.n_blocks if cache.n_blocks else 0.0
        kinds = runner.ledger.used_by_kind()
        return {
            "prefix_cache_queries_total": _one(cache.n_prefix_queries_tokens),
            "prefix_cache_hits_total": _one(cache.n_prefix_hit_tokens),
            "prefix_cache_miss_total": {(k,): n for k, n in cache.n_missed_tokens.items()},
            "kv_cache_usage_ratio": _one(usage),
            "kv_cache_used_bytes": _one(usage * kinds["kv"]),
            "kv_cache_capacity_bytes": _one(kinds["kv"]),
            "kv_cache_blocks": {
                ("used",): cache.n_used_blocks,
                ("cached",): cache.n_cached_blocks,
                ("free",): n_free,
            },
            "kv_cache_evictions_total": {
                ("room",): cache.n_evicted_blocks,
                ("window",): cache.n_window_blocks,
            },
            "requests_running": _one(len(scheduler.running)),
            "requests_waiting": _one(scheduler.n_waiting),
            "op_seconds_total": {(op,): s for op, s in self._times.seconds().items()},
            "memory_bytes": {(kind,): n for kind, n in kinds.items()},
            "memory_predicted_bytes": {(kind,): n for kind, n in runner.plan.by_kind.items()},
            "device_memory_allocated_bytes": _one(runner.ledger.used_bytes),
        }

    def _family(self, name: str, values: Values) -> Metric:
        spec = _SPECS[name]
        labels = (*ENGINE_LABELS, *spec.labels)
        make = CounterMetricFamily if spec.kind == "counter" else GaugeMetricFamily
        family = make(PREFIX + name, spec.help, labels=labels)
        for own, value in values.items():
            family.add_metric((*self._labels, *own), value)
        return family

    def _lifetimes(self, cache: _core.CacheStats) -> Metric:
        spec = _SPECS["kv_block_lifetime_seconds"]
        family = HistogramMetricFamily(PREFIX + spec.name, spec.help, labels=ENGINE_LABELS)
        buckets, total_seconds = cache.block_lifetimes
        family.add_metric(self._labels, cumulative(buckets), total_seconds)
        return family


def _one(value: float) -> Values:
    return {_NO_LABELS: value}
