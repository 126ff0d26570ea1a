"""Mean and percentiles of a figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Summary:
    """Of ``n`` observations; percentiles are interpolated linearly."""

    mean: float
    p50: float
    p90: float
    p99: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary:
        """Of at least one value."""
        p50, p90, p99 = np.quantile(values, (0.5, 0.9, 0.99))
        return cls(float(np.mean(values)), float(p50), float(p90), float(p99), len(values))
