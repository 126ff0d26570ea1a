"""What is compared: a strategy with its options, written ``paged:ctk=q8_0:eviction=lfu``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from longbow_quarrel.cache import strategies
from longbow_quarrel.config import EngineConfig
from longbow_quarrel.errors import UsageError

_SHORT = {"ctk": "kv_type_k", "ctv": "kv_type_v"}
_DEFAULTS = (
    "contiguous",
    "paged",
    "sliding_window:window=1024",
    "paged:ctk=q8_0:ctv=q8_0",
)


@dataclass(frozen=True)
class Contender:
    """A strategy and what it is configured with.

    Attributes:
        name: as it was written.
        config: the engine's configuration; sizes are chosen for each measurement.
    """

    name: str
    config: EngineConfig


def parse_contender(text: str, base: EngineConfig) -> Contender:
    """``STRATEGY[:OPTION=VALUE]...``; options are those of ``EngineConfig``, and ctk and ctv.

    Raises:
        UsageError: no such strategy or option, or a value out of range.
    """
    strategy, *options = text.strip().split(":")
    if strategy not in strategies():
        known = ", ".join(strategies())
        raise UsageError(f"--cache: expected one of {known}, got {strategy!r}.")
    values: dict[str, Any] = {"cache": strategy}
    for option in options:
        key, is_given, value = option.partition("=")
        if not is_given:
            raise UsageError(f"--cache: {option!r} of {text!r} must be written OPTION=VALUE.")
        key = key.replace("-", "_")
        values[_SHORT.get(key, key)] = value
    return Contender(text.strip(), base.model_copy(update=values))


def parse_contenders(text: str | None, base: EngineConfig) -> list[Contender]:
    """A list separated by commas; by default every strategy, registered ones included.

    Raises:
        UsageError: as :func:`parse_contender`, or one is named twice.
    """
    names = _default_names() if text is None else text.split(",")
    contenders = [parse_contender(name, base) for name in names]
    if len({c.name for c in contenders}) < len(contenders):
        raise UsageError(f"--cache names a contender twice: {text}.")
    return contenders


def with_policies(contenders: Iterable[Contender], policies: Iterable[str]) -> list[Contender]:
    """Plain ``paged`` once with each eviction policy, the others as they are."""
    found: list[Contender] = []
    for contender in contenders:
        if contender.name != "paged":
            found.append(contender)
            continue
        found += [
            parse_contender(f"paged:eviction={policy}", contender.config) for policy in policies
        ]
    return found


def _default_names() -> list[str]:
    built_in = {name.partition(":")[0] for name in _DEFAULTS}
    return [*_DEFAULTS, *(name for name in strategies() if name not in built_in)]
