"""A rollout's evidence as metrics; zeros where there is no rollout, so that alerts have a 0."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import get_args

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from longbow_quarrel.engine import Engine
from longbow_quarrel.rollout.evidence import KL_BUCKETS, Evidence
from longbow_quarrel.rollout.guard import Phase
from longbow_quarrel.telemetry.native import Values, arm_labels, family
from longbow_quarrel.telemetry.registry import ENGINE_LABELS, METRICS, PREFIX
from longbow_quarrel.telemetry.tallies import cumulative


class RolloutCollector(Collector):
    """Reads what the decisions of an engine's rollout rest on; see :class:`NativeCollector`."""

    def __init__(self, engine: Engine, model: str) -> None:
        self._engine = engine
        self._labels = arm_labels(engine, model)[0]

    def describe(self) -> list[Metric]:
        return []  # so that registering does not collect

    def collect(self) -> Iterator[Metric]:
        rollout = self._engine.rollout
        seen = rollout.evidence if rollout else Evidence()
        values: dict[str, Values] = {
            "rollout_requests_total": _by_label(seen.n_requests),
            "rollout_divergence_total": _by_label(seen.n_divergent),
            "rollout_skipped_total": _by_label(seen.n_skipped),
            "rollout_events_total": _by_label(seen.n_events),
            "rollout_share": {(): rollout.share if rollout else 0.0},
            "rollout_phase": {
                (phase,): float(rollout is not None and rollout.phase == phase)
                for phase in get_args(Phase)
            },
        }
        for name, own in values.items():
            yield family(name, [(self._labels, own)])
        yield self._divergence(seen)

    def _divergence(self, seen: Evidence) -> Metric:
        spec = next(m for m in METRICS if m.name == "rollout_logit_kl")
        made = HistogramMetricFamily(PREFIX + spec.name, spec.help, labels=ENGINE_LABELS)
        buckets = zip((*KL_BUCKETS, math.inf), seen.kl_counts, strict=True)
        made.add_metric(self._labels, cumulative(buckets), seen.kl_sum)
        return made


def _by_label(counts: dict[str, int]) -> Values:
    return {(label,): float(n) for label, n in counts.items()}
