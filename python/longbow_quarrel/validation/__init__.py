"""The final gate: outputs, quality, coherence and speed of a model against references."""

from __future__ import annotations
