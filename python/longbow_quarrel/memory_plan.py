"""What a model will take, to the byte, before anything is loaded.

The planner reads a model file's metadata only. A :class:`ModelRunner` is built from the same plan,
so what the ledger is charged cannot drift from what was predicted; tests compare the two.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from longbow_quarrel import _core, models
from longbow_quarrel.cache import (
    CacheConfig,
    attention_masks,
    bookkeeping_bytes,
    check_cache,
    kept_spans,
)
from longbow_quarrel.config import EngineConfig, KVType, total_memory_bytes
from longbow_quarrel.device import device_room_bytes, make_device
from longbow_quarrel.errors import OutOfMemoryError, UsageError
from longbow_quarrel.kv_sizing import Demand, blocks_for, counts_for_bytes, kv_bytes, largest

_DEFAULT_CONTEXT = 8192
_DEFAULT_TOKENS_PER_SEQUENCE = 1024
_SHARE_OF_MACHINE = 0.8


@dataclass(frozen=True)
class MemoryPlan:
    """What loading a model charges to the ledger, and what that serves.

    Attributes:
        by_kind: bytes of weights, kv, scratch, prefix_cache and snapshots.
        cap_bytes: the ledger's hard cap.
        n_blocks: KV blocks of each layer group.
        block_bytes: bytes of one of them.
        masks: (window, sinks) that attention applies to each group; window 0: all.
        capacity_tokens: tokens that the KV cache holds at the same time.
        max_text_tokens: tokens that one text may have.
        kv_bytes_per_token: of a short text.
        kv_bytes_per_token_far: of a text longer than every window: what another token adds.
    """

    strategy: str
    by_kind: dict[str, int]
    cap_bytes: int
    context_length: int
    max_num_seqs: int
    max_step_tokens: int
    n_blocks: tuple[int, ...]
    block_bytes: tuple[int, ...]
    masks: tuple[tuple[int, int], ...]
    capacity_tokens: int
    max_text_tokens: int
    kv_bytes_per_token: int
    kv_bytes_per_token_far: int
    cache_config: CacheConfig

    @property
    def total_bytes(self) -> int:
        return sum(self.by_kind.values())

    def beside(self, other: MemoryPlan) -> MemoryPlan:
        """What this one adds to another of the same model, device and step sizes."""
        assert (self.context_length, self.max_num_seqs, self.max_step_tokens) == (
            other.context_length,
            other.max_num_seqs,
            other.max_step_tokens,
        )
        return dataclasses.replace(self, by_kind=self.by_kind | {"weights": 0, "scratch": 0})

    def check(self) -> None:
        """Refuse what does not fit under the cap.

        Raises:
            OutOfMemoryError: the plan takes more than ``cap_bytes``.
        """
        if self.total_bytes <= self.cap_bytes:
            return
        kinds = ", ".join(f"{kind} {n}" for kind, n in self.by_kind.items() if n)
        raise OutOfMemoryError(
            f"[memory] {self.total_bytes} bytes are needed ({kinds}) but only {self.cap_bytes} are "
            f"allowed; raise memory_limit by {self.total_bytes - self.cap_bytes} bytes, or lower "
            "kv_cache_memory, context_length or max_num_seqs."
        )


@dataclass(frozen=True)
class Outlook:
    """What one strategy with one type of K and V could serve under the same cap.

    Attributes:
        largest_context: tokens of a single text, at most what the model was made for.
        largest_concurrency: texts of the plan's ``context_length`` at the same time.
        kv_bytes_per_sequence: of one text of that length.
    """

    strategy: str
    kv_type: str
    kv_bytes_per_token: int
    kv_bytes_per_token_far: int
    kv_bytes_per_sequence: int
    largest_context: int
    largest_concurrency: int


class Planner:
    """Plans for one model, device and configuration.

    Raises:
        ModelFormatError: the file cannot be used.
        UsageError: the configuration makes no sense for this model.
    """

    def __init__(
        self, file: _core.GGUFFile, config: EngineConfig, device: _core.Device | None = None
    ) -> None:
        self.file = file
        self.config = config
        self.parameters, self.program = models.record(file)
        self.device = device or make_device(config)
        limit = config.memory_limit
        self.cap_bytes = int(total_memory_bytes() * _SHARE_OF_MACHINE) if limit == "auto" else limit
        self._windows = [group.window for group in self.program.groups]

    def plan(self) -> MemoryPlan:
        """The plan of the configuration as it is.

        Raises:
            UsageError: kv_cache_memory holds no block.
        """
        config = self.config
        context = self.context_length
        demand = self._demand(config.cache, context, config.max_num_seqs)
        block_bytes = self._block_bytes(config.kv_type_k, config.kv_type_v)
        if config.kv_cache_memory != "auto":
            counts = counts_for_bytes(demand, block_bytes, config.kv_cache_memory)
        else:
            counts = self._counts_that_fit(demand, block_bytes)
        return self._plan(config.cache, demand, counts, block_bytes)

    @property
    def context_length(self) -> int:
        return self.config.context_length or min(self.parameters.context_length, _DEFAULT_CONTEXT)

    def kv_bytes_in_full(self) -> int:
        """Bytes of a KV cache in which ``max_num_seqs`` texts can reach ``context_length``."""
        config = self.config
        demand = self._demand(config.cache, self.context_length, config.max_num_seqs)
        block_bytes = self._block_bytes(config.kv_type_k, config.kv_type_v)
        return kv_bytes(demand.counts_in_full(), block_bytes)

    def outlooks(self, strategies: tuple[str, ...]) -> Iterator[Outlook]:
        """What each of ``strategies`` could serve with each type of K and V that the device has."""
        for strategy in strategies:
            for kv_type in get_args(KVType):
                try:
                    block_bytes = self._block_bytes(kv_type, kv_type)
                except UsageError:
                    continue  # not on this device
                yield self._outlook(strategy, kv_type, block_bytes)

    def _outlook(self, strategy: str, kv_type: str, block_bytes: tuple[int, ...]) -> Outlook:
        context = self.context_length

        def fits(context_length: int, max_num_seqs: int) -> bool:
            demand = self._demand(strategy, context_length, max_num_seqs)
            plan = self._plan(strategy, demand, demand.counts_in_full(), block_bytes)
            limit = self.config.kv_cache_memory
            in_kv = limit == "auto" or plan.by_kind["kv"] <= limit
            return in_kv and self._fits(plan)

        one = self._demand(strategy, context, 1)
        per_sequence = kv_bytes(one.counts_in_full(), block_bytes)
        most = max(1, self.cap_bytes // max(per_sequence, 1))
        return Outlook(
            strategy=strategy,
            kv_type=kv_type,
            kv_bytes_per_token=self._per_token(one, block_bytes),
            kv_bytes_per_token_far=self._per_token_far(one, block_bytes),
            kv_bytes_per_sequence=per_sequence,
            largest_context=largest(lambda n: fits(n, 1), self.parameters.context_length),
            largest_concurrency=largest(lambda n: fits(context, n), most),
        )

    def _demand(self, strategy: str, context_length: int, max_num_seqs: int) -> Demand:
        window, _ = self._masks(strategy, context_length)
        return Demand(
            spans=tuple(
                kept_spans(
                    strategy,
                    self._kept_groups(strategy, context_length),
                    window=window,
                    sinks=self.config.sinks,
                )
            ),
            block_size=self.config.block_size,
            max_num_seqs=max_num_seqs,
            context_length=context_length,
            max_step_tokens=min(self.config.max_num_batched_tokens, context_length),
        )

    def _masks(self, strategy: str, context_length: int) -> tuple[int, list[tuple[int, int]]]:
        """The explicit window (0: none) and what attention may see of each group."""
        window = self.config.window
        if strategy == "sliding_window":
            window = window or context_length
        return window or 0, attention_masks(self._windows, window, self.config.sinks)

    def _kept_groups(self, strategy: str, context_length: int) -> list[int]:
        """A cache without a window of its own keeps the sinks of a narrowed layer too."""
        _, masks = self._masks(strategy, context_length)
        return [
            own if mask == (own, 0) or strategy == "sliding_window" else 0
            for own, mask in zip(self._windows, masks, strict=True)
        ]

    def _block_bytes(self, k_type: str, v_type: str) -> tuple[int, ...]:
        return tuple(
            self.device.kv_block_bytes(self.program, self.config.block_size, k_type, v_type)
        )

    def _counts_that_fit(self, demand: Demand, block_bytes: tuple[int, ...]) -> tuple[int, ...]:
        """Room for ``max_num_seqs`` short texts or a long one, or for what the cap allows."""
        size = demand.block_size

        def fits(counts: tuple[int, ...]) -> bool:
            return self._fits(self._plan(self.config.cache, demand, counts, block_bytes))

        if demand.has_full_group:
            tokens = max(demand.context_length, demand.max_num_seqs * _DEFAULT_TOKENS_PER_SEQUENCE)
            n = largest(lambda n: fits(demand.counts(n)), blocks_for(tokens, size))
            return demand.counts(max(n, 1))

        def of(n: int) -> tuple[int, ...]:
            return tuple(n * demand.of_sequence(span) for span in demand.spans)

        return of(max(1, largest(lambda n: fits(of(n)), demand.max_num_seqs)))

    def _fits(self, plan: MemoryPlan) -> bool:
        """Under the cap, and where the device has a limit of its own, under that too."""
        room = device_room_bytes(self.device)
        return plan.total_bytes <= (plan.cap_bytes if room is None else min(plan.cap_bytes, room))

    @functools.lru_cache(maxsize=4096)  # noqa: B019 (a planner lives briefly)
    def _needs(
        self, max_step_tokens: int, max_num_seqs: int, context_length: int
    ) -> tuple[int, int]:
        return self.device.memory_needs(self.program, max_step_tokens, max_num_seqs, context_length)

    def _plan(
        self,
        strategy: str,
        demand: Demand,
        counts: tuple[int, ...],
        block_bytes: tuple[int, ...],
    ) -> MemoryPlan:
        window, masks = self._masks(strategy, demand.context_length)
        config = CacheConfig(
            groups=tuple(self._kept_groups(strategy, demand.context_length)),
            block_size=demand.block_size,
            n_blocks=counts,
            reuse_prefixes=self.config.prefix_caching,
            window=window,
            sinks=self.config.sinks,
            eviction=self.config.eviction,
            fingerprint=self._fingerprint(masks),
            max_step_tokens=demand.max_step_tokens,
            max_num_seqs=demand.max_num_seqs,
            context_length=demand.context_length,
        )
        check_cache(strategy, config)
        weights, scratch = self._needs(
            demand.max_step_tokens, demand.max_num_seqs, demand.context_length
        )
        holds_all = [n for n, span in zip(counts, demand.spans, strict=True) if span[0] == 0]
        capacity = min(holds_all or counts) * demand.block_size
        return MemoryPlan(
            strategy=strategy,
            by_kind={
                "weights": weights,
                "kv": kv_bytes(counts, block_bytes),
                "scratch": scratch,
                "prefix_cache": bookkeeping_bytes(strategy, config),
                "snapshots": 0,
            },
            cap_bytes=self.cap_bytes,
            context_length=demand.context_length,
            max_num_seqs=demand.max_num_seqs,
            max_step_tokens=demand.max_step_tokens,
            n_blocks=counts,
            block_bytes=block_bytes,
            masks=tuple(masks),
            capacity_tokens=capacity,
            max_text_tokens=min(demand.context_length, capacity)
            if holds_all
            else demand.context_length,
            kv_bytes_per_token=self._per_token(demand, block_bytes),
            kv_bytes_per_token_far=self._per_token_far(demand, block_bytes),
            cache_config=config,
        )

    def _fingerprint(self, masks: list[tuple[int, int]]) -> str:
        config = self.config
        return (
            f"{self.file.path}:{self.file.file_bytes}:{config.kv_type_k}:{config.kv_type_v}:{masks}"
        )

    def _per_token(self, demand: Demand, block_bytes: tuple[int, ...]) -> int:
        return sum(block_bytes) // demand.block_size

    def _per_token_far(self, demand: Demand, block_bytes: tuple[int, ...]) -> int:
        full = [b for b, span in zip(block_bytes, demand.spans, strict=True) if span[0] == 0]
        return sum(full) // demand.block_size


def plan_memory(path: str | Path, config: EngineConfig | None = None) -> MemoryPlan:
    """The memory plan of a model file, by default under ``EngineConfig.load()``.

    Raises:
        ModelFormatError: the file cannot be used.
        UsageError: the configuration makes no sense for this model.
    """
    return Planner(_core.GGUFFile(str(path)), config or EngineConfig.load()).plan()


def as_dict(plan: MemoryPlan) -> dict[str, Any]:
    """The plan as plain data."""
    facts = {
        field.name: getattr(plan, field.name)
        for field in dataclasses.fields(plan)
        if field.name != "cache_config"
    }
    return facts | {"total_bytes": plan.total_bytes, "fits": plan.total_bytes <= plan.cap_bytes}
