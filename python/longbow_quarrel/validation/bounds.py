"""How far a computation may be from the exact one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bounds:
    """Limits of a model's quality.

    The measured values of the catalogue's models stand in docs/reports/final-validation.md; the
    limits leave a factor of ten and more, for devices that round otherwise.

    Attributes:
        clear_gap: logits between the best and the second token from which on the exact greedy
            choice must be taken.
        perplexity: relative difference from the exact one.
        kl_mean, kl_mean_at_depth: nats from the exact predictions, of all rows and of each depth.
        same_top: share of the rows with the exact likeliest token.
    """

    clear_gap: float
    perplexity: float
    kl_mean: float
    kl_mean_at_depth: float
    same_top: float

    @classmethod
    def for_kv_types(cls, *types: str) -> Bounds:
        """The limits with K and V of these element types: those of the coarsest."""
        return next(_BY_TYPE[kind] for kind in _COARSEST_FIRST if kind in types)


_PLAIN = Bounds(0.05, 1e-3, 2e-5, 5e-5, 0.99)
_BY_TYPE = {
    "q4_0": Bounds(3.0, 0.15, 0.1, 0.3, 0.75),
    "q8_0": Bounds(0.5, 5e-3, 1e-3, 3e-3, 0.96),
    "bf16": Bounds(0.5, 5e-3, 1e-3, 3e-3, 0.96),
    "f16": _PLAIN,
    "f32": _PLAIN,
}
_COARSEST_FIRST = tuple(_BY_TYPE)
