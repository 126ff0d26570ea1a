"""Metrics that are counted as things happen: native counters and histograms, by name and label."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from longbow_quarrel import _core
from longbow_quarrel.telemetry import registry
from longbow_quarrel.telemetry.registry import ENGINE_LABELS, PREFIX


class Tallies(Collector):
    """Counters and histograms of metrics whose source is ``events``; read without a lock.

    Args:
        labels: values of ``ENGINE_LABELS``.
    """

    def __init__(self, specs: Iterable[registry.Metric], labels: tuple[str, ...]) -> None:
        self._specs = {spec.name: spec for spec in specs}
        self._labels = labels
        self._arms = [self]
        self._lock = threading.Lock()  # of making new ones
        self._counters: dict[str, dict[str, _core.Counter]] = {}
        self._histograms: dict[str, dict[str, _core.Histogram]] = {}
        for spec in self._specs.values():
            if spec.kind == "counter":
                self._counters[spec.name] = {}
            else:
                self._histograms[spec.name] = {}
            if not spec.labels:  # shown from the beginning, at zero
                (self.counter if spec.kind == "counter" else self.histogram)(spec.name)

    def beside(self, labels: tuple[str, ...]) -> Tallies:
        """Others of the same metrics under other labels, read together with these."""
        other = Tallies(self._specs.values(), labels)
        self._arms.append(other)
        return other

    def counter(self, name: str, label: str = "") -> _core.Counter:
        """The counter with this value of the metric's own label."""
        series = self._counters[name]
        with self._lock:
            return series.setdefault(label, _core.Counter())

    def histogram(self, name: str, label: str = "") -> _core.Histogram:
        """The histogram with this value of the metric's own label."""
        series = self._histograms[name]
        with self._lock:
            return series.setdefault(label, _core.Histogram(self._specs[name].buckets))

    def describe(self) -> list[Metric]:
        return []  # so that registering does not collect

    def collect(self) -> Iterator[Metric]:
        for name in self._counters:
            spec = self._specs[name]
            labels = (*ENGINE_LABELS, *spec.labels)
            counts = CounterMetricFamily(PREFIX + name, spec.help, labels=labels)
            for arm in self._arms:
                for label, counter in list(arm._counters[name].items()):
                    counts.add_metric(arm._values(spec, label), counter.value)
            yield counts
        for name in self._histograms:
            spec = self._specs[name]
            labels = (*ENGINE_LABELS, *spec.labels)
            times = HistogramMetricFamily(PREFIX + name, spec.help, labels=labels)
            for arm in self._arms:
                for label, histogram in list(arm._histograms[name].items()):
                    buckets = zip([*histogram.bounds, float("inf")], histogram.counts, strict=True)
                    values = arm._values(spec, label)
                    times.add_metric(values, cumulative(buckets), histogram.sum)
            yield times

    def _values(self, spec: registry.Metric, label: str) -> tuple[str, ...]:
        return (*self._labels, *(label for _ in spec.labels))


def cumulative(buckets: Iterable[tuple[float, int]]) -> list[tuple[str, float]]:
    """Upper bounds and counts the way Prometheus wants them: each with all that is below it."""
    total = 0
    result: list[tuple[str, float]] = []
    for bound, count in buckets:
        total += count
        result.append((floatToGoString(bound), total))  # type: ignore[no-untyped-call]
    return result
