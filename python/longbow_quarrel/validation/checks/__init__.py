"""The checks, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from longbow_quarrel.validation.checks import (
    coherence,
    divergence,
    greedy,
    llamacpp,
    perplexity,
    speed,
)
from longbow_quarrel.validation.results import Check
from longbow_quarrel.validation.subject import Subject

CHECKS: Mapping[str, Callable[[Subject], Check]] = {
    "greedy": greedy.check,
    "perplexity": perplexity.check,
    "divergence": divergence.check,
    "coherence": coherence.check,
    "speed": speed.check,
    "llamacpp": llamacpp.check,
}
