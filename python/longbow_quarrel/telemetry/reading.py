"""Metrics as whoever scrapes them wants them: name and labels to a number."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from longbow_quarrel.telemetry.registry import ENGINE_LABELS, PREFIX


def read(text: str) -> dict[str, float]:
    """Samples of an exposition as ``name{label}``, without the prefix and the labels that all
    have."""
    samples: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            own = [v for k, v in sample.labels.items() if k not in ENGINE_LABELS]
            name = sample.name.removeprefix(PREFIX)
            samples[name + (f"{{{','.join(own)}}}" if own else "")] = sample.value
    return samples
