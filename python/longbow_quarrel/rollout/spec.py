"""What ``--rollout`` and ``--baseline`` say, and which request takes which arm."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from longbow_quarrel.config import EngineConfig, RolloutConfig
from longbow_quarrel.errors import UsageError

# What may differ between two arms; the rest belongs to the device they share.
_OPTIONS = {
    "window": "window",
    "sinks": "sinks",
    "block_size": "block_size",
    "eviction": "eviction",
    "ctk": "kv_type_k",
    "ctv": "kv_type_v",
    "kv_type_k": "kv_type_k",
    "kv_type_v": "kv_type_v",
    "prefix_caching": "prefix_caching",
}


@dataclass(frozen=True)
class Spec:
    """A cache strategy with options of its own."""

    strategy: str
    options: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, what: str) -> Spec:
        """Read ``NAME[,option=value…]``; ``what`` is named in errors.

        Raises:
            UsageError: an unknown option, or one without a value.
        """
        strategy, *parts = (part.strip() for part in text.split(","))
        if not strategy:
            raise UsageError(f"{what}: expected NAME[,option=value…], got {text!r}.")
        options: dict[str, str] = {}
        for part in parts:
            name, _, value = part.partition("=")
            key = name.strip().replace("-", "_")
            if key not in _OPTIONS or not value.strip():
                known = ", ".join(_OPTIONS)
                raise UsageError(f"{what}: expected option=value with {known}; got {part!r}.")
            options[_OPTIONS[key]] = value.strip()
        return cls(strategy, options)

    @property
    def text(self) -> str:
        """The spec as it is written, options in a fixed order."""
        options = sorted(self.options.items())
        return ",".join([self.strategy, *(f"{name}={value}" for name, value in options)])

    def configure(self, config: EngineConfig) -> EngineConfig:
        """``config`` with this strategy and its options.

        Raises:
            UsageError: a value out of range.
        """
        return EngineConfig(**(config.model_dump() | {"cache": self.strategy, **self.options}))


@dataclass(frozen=True)
class Plan:
    """Two arms and how requests are shared out.

    Attributes:
        share: of requests that the candidate serves.
        shadow: of requests that are computed again on both arms.
        seed: another one shares requests out otherwise.
    """

    baseline: Spec
    candidate: Spec
    share: float
    shadow: float
    seed: int

    @classmethod
    def of(cls, config: EngineConfig, rollout: RolloutConfig) -> Plan:
        """What the configuration asks for; ``rollout.rollout`` must be set.

        Raises:
            UsageError: it makes no sense.
        """
        assert rollout.rollout is not None
        name, _, rest = rollout.rollout.partition(":")
        number, comma, options = rest.partition(",")
        try:
            share = float(number)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            raise UsageError(
                "rollout: expected NAME:SHARE[,option=value…] with a share from 0 to 1, "
                f"got {rollout.rollout!r}."
            )
        candidate = Spec.parse(name + comma + options, "rollout")
        baseline = Spec.parse(rollout.baseline or config.cache, "baseline")
        if candidate.configure(config) == baseline.configure(config):
            raise UsageError(
                f"rollout: the candidate {candidate.text!r} is the baseline; name another "
                "strategy or option."
            )
        return cls(baseline, candidate, share, rollout.shadow, rollout.rollout_seed)

    def takes_candidate(self, request_id: str) -> bool:
        """Whether the candidate serves this request."""
        return _draw(self.seed, "arm", request_id) < self.share

    def is_shadowed(self, request_id: str) -> bool:
        """Whether this request is compared; does not depend on its arm."""
        return _draw(self.seed, "shadow", request_id) < self.shadow


def _draw(seed: int, purpose: str, request_id: str) -> float:
    """A number in [0, 1) that depends on nothing but its arguments."""
    text = f"{seed}/{purpose}/{request_id}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") / 2.0**64
