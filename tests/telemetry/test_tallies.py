"""Counters and histograms as Prometheus reads them, beside prometheus-client's own."""

from __future__ import annotations

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.exposition import generate_latest

from longbow_quarrel import _core
from longbow_quarrel.errors import UsageError
from longbow_quarrel.telemetry.reading import read
from longbow_quarrel.telemetry.registry import METRICS, PREFIX, Metric
from longbow_quarrel.telemetry.tallies import Tallies

BOUNDS = (0.1, 1.0, 2.5)


def exposed(collector: Tallies) -> dict[str, float]:
    registry = prometheus_client.CollectorRegistry()
    registry.register(collector)
    return read(generate_latest(registry).decode())


@given(st.lists(st.floats(0, 5) | st.sampled_from(BOUNDS)))
def test_a_histogram_reads_as_prometheus_clients_own(values):
    ours = Tallies([Metric("t_seconds", "histogram", "h", "events", (), BOUNDS)], ("m", "s", "d"))
    registry = prometheus_client.CollectorRegistry()
    theirs = prometheus_client.Histogram("t_seconds", "h", registry=registry, buckets=BOUNDS)
    for value in values:
        ours.histogram("t_seconds").observe(value)
        theirs.observe(value)
    expected = read(generate_latest(registry).decode())
    assert exposed(ours) == {k: v for k, v in expected.items() if "_created" not in k}


def test_labels_have_series_of_their_own():
    spec = Metric("things_total", "counter", "h", "events", ("reason",))
    tallies = Tallies([spec], ("m", "s", "d"))
    assert exposed(tallies) == {}
    tallies.counter("things_total", "a").add(2)
    tallies.counter("things_total", "b").add(1)
    tallies.counter("things_total", "a").add(3)
    assert exposed(tallies) == {"things_total{a}": 5, "things_total{b}": 1}


def test_what_has_no_label_of_its_own_is_there_from_the_beginning():
    tallies = Tallies([m for m in METRICS if m.source == "events"], ("m", "s", "d"))
    zeros = exposed(tallies)
    assert zeros["generation_tokens_total"] == 0
    assert zeros["time_to_first_token_seconds_count"] == 0
    assert PREFIX not in "".join(zeros)


def test_bounds_must_ascend():
    with pytest.raises(UsageError, match="ascending"):
        _core.Histogram([2.0, 1.0])
