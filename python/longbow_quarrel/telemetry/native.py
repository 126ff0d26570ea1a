"""Metrics that nobody counts in Python: read from native counters when Prometheus asks.

Reading stops nothing: the cache publishes its counts through a sequence lock, the ledger has a
mutex of its own, and the device's times are atomics.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

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


Labels = tuple[str, ...]


def arm_labels(engine: Engine, model: str) -> list[Labels]:
    """Values of ``ENGINE_LABELS`` for each of an engine's arms."""
    names: list[str] = []
    for arm in engine.arms:
        name = arm.runner.cache.strategy
        if name in names:  # a rollout of options
            name += "-candidate"
        names.append(name)
    return [(model, name, engine.runner.device.name) for name in names]


class NativeCollector(Collector):
    """Reads an engine's native counters and its scheduler's queues, of all arms.

    Args:
        model: the label by which dashboards tell models apart.
    """

    def __init__(self, engine: Engine, model: str, times: OpTimes) -> None:
        self._engine = engine
        self._model = model
        self._times = times

    def describe(self) -> list[Metric]:
        return []  # so that registering does not collect

    def collect(self) -> Iterator[Metric]:
        arms = self._engine.arms
        labels = arm_labels(self._engine, self._model)[: len(arms)]
        caches = [arm.runner.cache.stats() for arm in arms]
        of_arms = [self._of_arm(arm, cache) for arm, cache in zip(arms, caches, strict=True)]
        for name in of_arms[0]:
            values = [of_arm[name] for of_arm in of_arms]
            yield family(name, zip(labels, values, strict=False))
        for name, shared in self._shared().items():
            yield family(name, [(labels[0], shared)])
        yield self._lifetimes(labels, caches)

    def _of_arm(self, arm: Engine, cache: _core.CacheStats) -> dict[str, Values]:
        n_free = cache.n_blocks - cache.n_used_blocks - cache.n_cached_blocks
        usage = cache.n_used_blocks / cache.n_blocks if cache.n_blocks else 0.0
        n_bytes = arm.runner.storage.n_bytes
        return {
            "prefix_cache_queries_total": _one(cache.n_prefix_queries_tokens),
            "prefix_cache_hits_total": _one(cache.n_prefix_hit_tokens),
            "prefix_cache_miss_total": {(k,): n for k, n in cache.n_missed_tokens.items()},
            "kv_cache_usage_ratio": _one(usage),
            "kv_cache_used_bytes": _one(usage * n_bytes),
            "kv_cache_capacity_bytes": _one(n_bytes),
            "kv_cache_blocks": {
                ("used",): cache.n_used_blocks,
                ("cached",): cache.n_cached_blocks,
                ("free",): n_free,
            },
            "kv_cache_evictions_total": {
                ("room",): cache.n_evicted_blocks,
                ("window",): cache.n_window_blocks,
            },
            "requests_running": _one(len(arm.scheduler.running)),
            "requests_waiting": _one(arm.scheduler.n_waiting),
        }

    def _shared(self) -> dict[str, Values]:
        runner = self._engine.runner
        predicted = self._engine.predicted_by_kind()
        return {
            "op_seconds_total": {(op,): s for op, s in self._times.seconds().items()},
            "memory_bytes": {(k,): n for k, n in runner.ledger.used_by_kind().items()},
            "memory_predicted_bytes": {(k,): n for k, n in predicted.items()},
            "device_memory_allocated_bytes": _one(runner.ledger.used_bytes),
        }

    def _lifetimes(self, labels: Sequence[Labels], caches: Sequence[_core.CacheStats]) -> Metric:
        spec = _SPECS["kv_block_lifetime_seconds"]
        made = HistogramMetricFamily(PREFIX + spec.name, spec.help, labels=ENGINE_LABELS)
        for of_arm, cache in zip(labels, caches, strict=False):
            buckets, total_seconds = cache.block_lifetimes
            made.add_metric(of_arm, cumulative(buckets), total_seconds)
        return made


def family(name: str, arms: Iterable[tuple[Labels, Values]]) -> Metric:
    """A counter or gauge with the values of every arm."""
    spec = _SPECS[name]
    labels = (*ENGINE_LABELS, *spec.labels)
    make = CounterMetricFamily if spec.kind == "counter" else GaugeMetricFamily
    made = make(PREFIX + name, spec.help, labels=labels)
    for of_arm, values in arms:
        for own, value in values.items():
            made.add_metric((*of_arm, *own), value)
    return made


def _one(value: float) -> Values:
    return {_NO_LABELS: value}
