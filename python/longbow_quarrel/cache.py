"""Strategies of the KV cache and eviction policies by name, and how to add your own.

A strategy decides which block of memory holds which tokens of a sequence; attention sees block
tables only, so results do not depend on it. An eviction policy decides which cached block goes
first when room is needed; it is called per block, not per token. See docs/kv-cache.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from longbow_quarrel import _core
from longbow_quarrel.errors import UsageError


@dataclass(frozen=True)
class CacheConfig:
    """What a strategy is built from.

    Attributes:
        groups: the attention window of each layer group, in tokens; 0 where a layer sees all.
        block_size: tokens in a block.
        n_blocks: blocks of each layer group.
        reuse_prefixes: whether texts that start alike share blocks.
        window: tokens that attention looks back on at most, in layers whose own window is no
            narrower; what a sliding window keeps.
        sinks: first tokens that stay visible in those layers.
        eviction: name of an eviction policy.
        fingerprint: names all that K and V depend on beside the tokens (model, types, adapters).
        max_step_tokens: the most tokens of a sequence that a step computes, so that groups with a
            window need not reserve more ahead; 0 for any number.
        max_num_seqs: live sequences whose tables are charged to the ledger at once.
        context_length: tokens of each of them.
        ledger: what the cache's own memory is charged to; None charges nothing.
    """

    groups: tuple[int, ...]
    block_size: int
    n_blocks: tuple[int, ...]
    reuse_prefixes: bool
    window: int
    sinks: int
    eviction: str
    fingerprint: str
    max_step_tokens: int = 0
    max_num_seqs: int = 0
    context_length: int = 0
    ledger: _core.MemoryLedger | None = None

    def policies(self) -> list[_core.EvictionPolicy]:
        """One fresh eviction policy for each layer group."""
        return [make_eviction_policy(self.eviction, n) for n in self.n_blocks]

    def salt(self) -> int:
        """The fingerprint as 64 bits."""
        import hashlib  # loads OpenSSL

        return int.from_bytes(hashlib.sha256(self.fingerprint.encode()).digest()[:8], "little")


def attention_masks(groups: Sequence[int], window: int | None, sinks: int) -> list[tuple[int, int]]:
    """What each layer group may see, as (window, sinks): positions p <= q of a query at q where
    q - p < window or p < sinks; window 0: all.

    A group keeps its own window, without sinks, where ``window`` is no narrower.
    """
    return [(own, 0) if window is None or 0 < own <= window else (window, sinks) for own in groups]


class StrategyFactory(Protocol):
    """What :func:`register_strategy` takes: usually a class derived from ``_core.KVCache``."""

    def __call__(self, config: CacheConfig) -> _core.KVCache: ...


def tokens_for(cache: _core.KVCache) -> Callable[[memoryview[int]], Any]:
    """How ``cache`` is told tokens: a strategy written in Python takes them as NumPy arrays."""
    if type(cache).__module__ == _core.__name__:
        return lambda ids: ids
    import numpy as np

    return np.asarray


EvictionFactory = Callable[[int], _core.EvictionPolicy]


def _contiguous(config: CacheConfig) -> _core.KVCache:
    return _core.ContiguousCache(
        len(config.groups),
        config.block_size,
        min(config.n_blocks),
        config.reuse_prefixes,
        config.ledger,
        config.max_num_seqs,
    )


def _paged(config: CacheConfig) -> _core.KVCache:
    return _core.PagedCache(
        [(window, 0) for window in config.groups],
        config.block_size,
        config.n_blocks,
        config.policies(),
        config.reuse_prefixes,
        config.salt(),
        max_step_tokens=config.max_step_tokens,
        ledger=config.ledger,
        max_sequences=config.max_num_seqs,
        max_tokens=config.context_length,
    )


def _sliding_window(config: CacheConfig) -> _core.KVCache:
    return _core.SlidingWindowCache(
        config.window,
        config.sinks,
        [(window, 0) for window in config.groups],
        config.block_size,
        config.n_blocks,
        config.policies(),
        config.reuse_prefixes,
        config.salt(),
        max_step_tokens=config.max_step_tokens,
        ledger=config.ledger,
        max_sequences=config.max_num_seqs,
        max_tokens=config.context_length,
    )


_strategies: dict[str, StrategyFactory] = {
    "contiguous": _contiguous,
    "paged": _paged,
    "sliding_window": _sliding_window,
}
_NATIVE_POLICIES = ("lru", "lfu", "fifo")
_policies: dict[str, EvictionFactory] = {}


def kept_spans(
    strategy: str, groups: Sequence[int], *, window: int = 0, sinks: int = 0
) -> list[tuple[int, int]]:
    """What a strategy keeps of each layer group, as (window, sinks) in tokens; window 0: all.

    A strategy from outside is taken to keep everything.
    """
    if strategy == "sliding_window":
        return attention_masks(groups, window, sinks)
    return [(own if strategy == "paged" else 0, 0) for own in groups]


def bookkeeping_bytes(strategy: str, config: CacheConfig) -> int:
    """What a cache charges to its ledger when it is made; exact, and allocates nothing.

    Strategies and policies from outside keep their tables in Python's memory: 0.
    """
    if strategy == "contiguous":
        return _core.ContiguousCache.bookkeeping_bytes(
            config.block_size, min(config.n_blocks), config.max_num_seqs
        )
    if strategy not in ("paged", "sliding_window"):
        return 0
    spans = kept_spans(strategy, config.groups, window=config.window, sinks=config.sinks)
    n_bytes = _core.PagedCache.bookkeeping_bytes(
        spans,
        config.block_size,
        config.n_blocks,
        config.reuse_prefixes,
        config.max_num_seqs,
        config.context_length,
    )
    if config.eviction in _policies:
        n_bytes -= sum(map(_core.eviction_policy_bytes, config.n_blocks))
    return n_bytes


def strategies() -> list[str]:
    """Names that ``--cache`` takes."""
    return list(_strategies)


def eviction_policies() -> list[str]:
    """Names that ``--eviction`` takes."""
    return [*_NATIVE_POLICIES, *_policies]


def register_strategy(name: str, cls: StrategyFactory) -> None:
    """Make a strategy selectable by name.

    Args:
        name: a new name.
        cls: called with a :class:`CacheConfig`, returns a ``_core.KVCache``. A class derived from
            it overrides ``match_prefix``, ``reserve``, ``commit``, ``fork``, ``trim``, ``release``,
            ``n_tokens``, ``block_tables``, ``take_copies``, ``stats`` and ``check_invariants``.

    Raises:
        UsageError: the name is taken.
    """
    if name in _strategies:
        raise UsageError(f"cache: a strategy named {name!r} exists; choose another name.")
    _strategies[name] = cls


def register_eviction_policy(name: str, cls: EvictionFactory) -> None:
    """Make an eviction policy selectable by name.

    Args:
        name: a new name.
        cls: called with the number of blocks of a layer group, once per group; returns a
            ``_core.EvictionPolicy``. A class derived from it overrides ``insert``, ``erase`` and
            ``victim``.

    Raises:
        UsageError: the name is taken.
    """
    if name in eviction_policies():
        raise UsageError(f"eviction: a policy named {name!r} exists; choose another name.")
    _policies[name] = cls


def make_eviction_policy(name: str, n_blocks: int) -> _core.EvictionPolicy:
    """A fresh policy for one layer group of ``n_blocks`` blocks.

    Raises:
        UsageError: no policy has this name.
    """
    if name in _policies:
        return _policies[name](n_blocks)
    if name not in _NATIVE_POLICIES:
        known = ", ".join(eviction_policies())
        raise UsageError(f"eviction: expected one of {known}, got {name!r}.")
    return _core.make_eviction_policy(name, n_blocks)


def make_cache(
    strategy: str,
    *,
    groups: Sequence[int],
    block_size: int,
    n_blocks: Sequence[int],
    reuse_prefixes: bool = True,
    window: int = 0,
    sinks: int = 0,
    eviction: str = "lru",
    fingerprint: str = "",
    max_step_tokens: int = 0,
    max_num_seqs: int = 0,
    context_length: int = 0,
    ledger: _core.MemoryLedger | None = None,
) -> _core.KVCache:
    """The bookkeeping of a KV cache; see :class:`CacheConfig` for the arguments.

    Raises:
        UsageError: no strategy or policy has this name, or the numbers make no sense.
        OutOfMemoryError: the ledger's cap does not allow its tables.
    """
    config = CacheConfig(
        groups=tuple(groups),
        block_size=block_size,
        n_blocks=tuple(n_blocks),
        reuse_prefixes=reuse_prefixes,
        window=window,
        sinks=sinks,
        eviction=eviction,
        fingerprint=fingerprint,
        max_step_tokens=max_step_tokens,
        max_num_seqs=max_num_seqs,
        context_length=context_length,
        ledger=ledger,
    )
    return build_cache(strategy, config)


def build_cache(strategy: str, config: CacheConfig) -> _core.KVCache:
    """What :func:`make_cache` does, from a :class:`CacheConfig`."""
    check_cache(strategy, config)
    return _strategies[strategy](config)


def check_cache(strategy: str, config: CacheConfig) -> None:
    """Refuse by name what :func:`make_cache` cannot make.

    Raises:
        UsageError: no strategy or policy has this name, or the numbers make no sense.
    """
    if strategy not in _strategies:
        known = ", ".join(_strategies)
        raise UsageError(f"cache: expected one of {known}, got {strategy!r}.")
    if strategy == "sliding_window" and config.window < 1:
        raise UsageError(
            "cache: sliding_window needs a window of at least one token; set --window."
        )
    if len(config.groups) != len(config.n_blocks):
        raise UsageError(
            f"cache: expected a number of blocks for each of {len(config.groups)} layer groups, "
            f"got {len(config.n_blocks)}."
        )
    if config.eviction not in eviction_policies():
        known = ", ".join(eviction_policies())
        raise UsageError(f"eviction: expected one of {known}, got {config.eviction!r}.")
