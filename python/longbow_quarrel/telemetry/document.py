"""The list of metrics as a page: ``python -m longbow_quarrel.telemetry.document``."""

from __future__ import annotations

from longbow_quarrel import _core
from longbow_quarrel.telemetry.registry import ENGINE_LABELS, METRICS, PREFIX, Metric

_HEAD = """# Metrics

Made by `python -m longbow_quarrel.telemetry.document > docs/metrics.md`; a test compares it with
the code.

`GET /metrics` answers in Prometheus's text format. Every metric has the labels {labels}.
Sources: *native* metrics are read from counters in C++ when somebody asks, *engine* ones from the
scheduler's queues; *events* are counted, natively too, as they happen; *rollout* ones are what
decisions of a [rollout](rollout.md) rest on: they survive a restart, and stay 0 without one. None
of it waits for a step of the engine. While a rollout runs, `strategy` tells its arms apart; what
both share (memory, time by op, the rollout's own) is the baseline's.

`quarrel_prefix_cache_hits_total` and all reasons of `quarrel_prefix_cache_miss_total` add up to
`quarrel_prefix_cache_queries_total`; [kv-cache.md](kv-cache.md) says what the reasons mean.

| metric | kind | labels | source | meaning |
|---|---|---|---|---|
"""


def markdown() -> str:
    """docs/metrics.md as it should be."""
    labels = ", ".join(f"`{label}`" for label in ENGINE_LABELS)
    rows = "".join(map(_row, METRICS))
    return _HEAD.format(labels=labels) + rows + "\n" + _buckets()


def _row(metric: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    cells = (f"`{PREFIX}{metric.name}`", metric.kind, labels, metric.source, metric.help)
    return f"| {' | '.join(cells)} |\n"


def _buckets() -> str:
    text = "## Buckets\n\n"
    for metric in METRICS:
        if metric.kind != "histogram":
            continue
        bounds = metric.buckets or [b for b, _ in _core.CacheStats().block_lifetimes[0][:-1]]
        text += f"- `{PREFIX}{metric.name}`: {', '.join(f'{b:g}' for b in bounds)}\n"
    return text


if __name__ == "__main__":
    print(markdown(), end="")
