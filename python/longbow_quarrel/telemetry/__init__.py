"""What the engine can say of itself, for Prometheus."""

from __future__ import annotations

from longbow_quarrel.telemetry.metrics import EngineMetrics

__all__ = ["EngineMetrics"]
