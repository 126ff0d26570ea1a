"""Every strategy beside a naive twin, as a state machine for hypothesis.

Caches are told of no sequence beforehand, so that the ledger is charged for the tables of each, and
can refuse any of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cache.snapshot_moves import Saved, SavingTwin
from cache.twin import Twin
from longbow_quarrel import _core
from longbow_quarrel.cache import make_cache
from longbow_quarrel.errors import OutOfMemoryError

# Two tokens, and runs of one of them, so that texts share beginnings and blocks repeat.
TOKENS = st.lists(st.integers(0, 1), min_size=1, max_size=14)
INDEX = st.integers(0, 99)


@dataclass(frozen=True)
class Made:
    """A cache, the blocks of its groups, and what it charges."""

    cache: _core.KVCache
    n_blocks: list[int]
    ledger: _core.MemoryLedger
    max_step_tokens: int = 0


def _hybrid_with_collisions() -> Made:
    policies = [_core.make_eviction_policy("lru", n) for n in (16, 24)]
    ledger = _core.MemoryLedger(1 << 24)
    cache = _core.PagedCache([(5, 0), (0, 0)], 2, [16, 24], policies, hash_bits=1, ledger=ledger)
    return Made(cache, [16, 24], ledger)


def made(
    strategy: str,
    *,
    groups: list[int],
    n_blocks: list[int],
    block_size: int = 4,
    max_step_tokens: int = 0,
    **options,
) -> Callable[[], Made]:
    def make() -> Made:
        ledger = _core.MemoryLedger(1 << 24)
        cache = make_cache(
            strategy,
            groups=groups,
            block_size=block_size,
            n_blocks=n_blocks,
            ledger=ledger,
            max_step_tokens=max_step_tokens,
            **options,
        )
        return Made(cache, n_blocks, ledger, max_step_tokens)

    return make


CACHES: dict[str, Callable[[], Made]] = {
    "contiguous": made("contiguous", groups=[0, 0], n_blocks=[20, 20]),
    "paged": made("paged", groups=[0], n_blocks=[16]),
    "paged-roomy": made("paged", groups=[0], n_blocks=[400], block_size=2),
    "paged-cold": made("paged", groups=[0], n_blocks=[12], reuse_prefixes=False),
    "paged-fifo": made("paged", groups=[0], n_blocks=[16], block_size=3, eviction="fifo"),
    "hybrid": made("paged", groups=[6, 0], n_blocks=[10, 16]),
    "hybrid-lfu": made("paged", groups=[0, 9, 1], n_blocks=[14, 12, 9], eviction="lfu"),
    "hybrid-roomy": made("paged", groups=[5, 0], n_blocks=[400, 400], block_size=2),
    "hybrid-stepwise": made("paged", groups=[6, 0], n_blocks=[10, 16], max_step_tokens=14),
    "hybrid-collisions": _hybrid_with_collisions,
    "sliding": made("sliding_window", groups=[0], n_blocks=[9], window=7, sinks=2),
    "sliding-hybrid": made("sliding_window", groups=[4, 0], n_blocks=[9, 12], window=10, sinks=5),
}


class CacheMachine(RuleBasedStateMachine):
    make: Callable[[], Made]
    n_moves = 0

    def __init__(self) -> None:
        super().__init__()
        new = type(self).make()
        self.ledger = new.ledger
        self.idle_bytes = new.ledger.used_bytes
        self.max_step_tokens = new.max_step_tokens
        self.saving = self.make_twin(new)
        self.twin = self.saving.twin
        self.texts: list[list[int]] = [[]]
        self.saved: list[Saved] = []

    def make_twin(self, new: Made) -> SavingTwin:
        return SavingTwin(Twin(new.cache, new.n_blocks, new.max_step_tokens))

    def sequence(self, index: int):
        return self.twin.sequences[index % len(self.twin.sequences)]

    def compute(self, sequence, tokens: list[int], *, succeeds: bool = True) -> None:
        n = self.max_step_tokens or max(len(tokens), 1)
        if self.twin.reserve(sequence, len(tokens)):  # as a scheduler does: all, then each step
            for start in range(0, len(tokens), n):
                part = tokens[start : start + n]
                if start and not self.twin.reserve(sequence, len(part)):
                    return
                self.twin.compute([(sequence, part)], succeeds=succeeds)
                if not succeeds:
                    return

    @rule(tokens=TOKENS, old=INDEX, cut=st.integers(0, 30), room=st.integers(0, 24))
    def open(self, tokens: list[int], old: int, cut: int, room: int) -> None:
        prompt = self.texts[old % len(self.texts)][:cut] + tokens
        sequence = self.twin.open(prompt, len(prompt) + room)
        self.twin.check()
        self.compute(sequence, prompt[len(sequence.tokens) :])

    @precondition(lambda self: self.twin.sequences)
    @rule(index=INDEX, tokens=TOKENS)
    def append(self, index: int, tokens: list[int]) -> None:
        self.compute(self.sequence(index), tokens)

    @precondition(lambda self: self.twin.sequences)
    @rule(tokens=TOKENS)
    def append_to_all(self, tokens: list[int]) -> None:
        """A batch: room for all first, then one step."""
        ready = [s for s in self.twin.sequences if self.twin.reserve(s, len(tokens))]
        self.twin.compute([(s, tokens) for s in ready], succeeds=True)

    @precondition(lambda self: self.twin.sequences)
    @rule(index=INDEX, tokens=TOKENS)
    def failed_step(self, index: int, tokens: list[int]) -> None:
        self.compute(self.sequence(index), tokens, succeeds=False)

    @precondition(lambda self: self.twin.sequences)
    @rule(index=INDEX, n=st.integers(0, 100))
    def reserve_too_much_or_little(self, index: int, n: int) -> None:
        self.twin.reserve(self.sequence(index), n)

    @precondition(lambda self: 0 < len(self.twin.sequences) < 10)
    @rule(index=INDEX)
    def fork(self, index: int) -> None:
        self.twin.fork(self.sequence(index))

    @precondition(lambda self: self.twin.sequences)
    @rule(index=INDEX, drop=st.integers(0, 20))
    def trim(self, index: int, drop: int) -> None:
        sequence = self.sequence(index)
        self.twin.trim(sequence, max(len(sequence.tokens) - drop, 0))

    @precondition(lambda self: self.twin.sequences)
    @rule(index=INDEX, drop=st.integers(0, 9), tokens=TOKENS)
    def regenerate(self, index: int, drop: int, tokens: list[int]) -> None:
        """Another ending for a text, and then somebody asks for the first one."""
        sequence = self.sequence(index)
        old = [*sequence.tokens, 0]
        self.twin.trim(sequence, max(len(sequence.tokens) - drop, 0))
        self.compute(sequence, tokens)
        self.twin.check()
        self.twin.open(old, len(old))

    @precondition(lambda self: self.twin.sequences)
    @rule(index=INDEX)
    def release(self, index: int) -> None:
        sequence = self.sequence(index)
        self.texts.append(list(sequence.tokens))
        self.twin.release(sequence)

    @precondition(lambda self: self.twin.sequences)
    @rule(index=INDEX)
    def preempt(self, index: int) -> None:
        """Give everything up and compute it again, from what the cache still has."""
        sequence = self.sequence(index)
        tokens = list(sequence.tokens) or [0]
        self.twin.release(sequence)
        again = self.twin.open(tokens, sequence.max_tokens)
        self.compute(again, tokens[len(again.tokens) :])

    @precondition(lambda self: self.twin.sequences)
    @rule(index=INDEX, whole=st.booleans())
    def save(self, index: int, whole: bool) -> None:
        self.saved = [*self.saved[-3:], self.saving.save(self.sequence(index), whole=whole)]

    @precondition(lambda self: self.saved and len(self.twin.sequences) < 10)
    @rule(index=INDEX)
    def restore(self, index: int) -> None:
        self.saving.restore(self.saved[index % len(self.saved)])

    @precondition(lambda self: self.twin.sequences)
    @rule(index=INDEX, other=INDEX, tokens=TOKENS)
    def swap_out(self, index: int, other: int, tokens: list[int]) -> None:
        """Preempt a sequence by saved blocks, use its room, and let it go on."""
        sequence = self.sequence(index)
        saved = self.saving.save(sequence, whole=False)
        self.texts.append(list(sequence.tokens))
        self.twin.release(sequence)
        self.twin.check()
        if self.twin.sequences:
            self.compute(self.sequence(other), tokens)
        self.twin.check()
        self.saving.restore(saved)

    @rule(restart=st.booleans())
    def save_and_load(self, restart: bool) -> None:
        """The prefix cache through a file, into itself or into a new cache."""
        if not restart:
            self.saving.through_a_file(None)
            return
        for sequence in list(self.twin.sequences):
            self.release(0)
            assert sequence not in self.twin.sequences
        n_evicted = self.twin.cache.stats().n_evicted_blocks
        fresh = type(self).make()
        self.ledger = fresh.ledger
        self.saving.through_a_file(fresh.cache)
        if n_evicted:  # the new cache cannot know what the old one had lost
            self.twin.maybe_lost |= self.twin.published

    @rule(tokens=TOKENS, index=INDEX, n=st.integers(1, 2), room=st.integers(0, 200))
    def out_of_memory(self, tokens: list[int], index: int, n: int, room: int) -> None:
        """Whatever charge is refused, the operation happens or leaves all as it was."""
        self.ledger.refuse_charge(n)
        with contextlib.suppress(OutOfMemoryError):
            self.twin.open(tokens, len(tokens) + room)
        self.twin.check()
        self.ledger.refuse_charge(n)
        if 0 < len(self.twin.sequences) < 10:
            self.twin.fork(self.sequence(index))
        self.twin.check()
        self.ledger.refuse_charge(n)
        if self.twin.sequences:
            self.compute(self.sequence(index), tokens)
        self.twin.check()
        self.ledger.refuse_charge(n)
        if self.saved and len(self.twin.sequences) < 10:
            with contextlib.suppress(OutOfMemoryError):
                self.saving.restore(self.saved[index % len(self.saved)])
        self.ledger.refuse_charge(0)

    @invariant()
    def contents(self) -> None:
        CacheMachine.n_moves += 1
        self.twin.check()

    def teardown(self) -> None:
        for sequence in list(self.twin.sequences):
            self.twin.release(sequence)
        self.twin.check()
        assert self.twin.cache.stats().n_used_blocks == 0
        assert self.ledger.used_bytes == self.idle_bytes


def drive(name: str, n_examples: int, n_steps: int, with_seed: int | None = None) -> None:
    """Let hypothesis make up to ``n_steps`` moves with a cache, ``n_examples`` times."""
    machine = type(f"Machine_{name}", (CacheMachine,), {"make": staticmethod(CACHES[name])})
    if with_seed is not None:
        seed(with_seed)(machine)
    run_machine(machine, n_examples, n_steps)


def run_machine(machine: type[CacheMachine], n_examples: int, n_steps: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=n_examples,
            stateful_step_count=n_steps,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


def campaign(name: str, first_seed: int, wanted: int) -> tuple[str, list[int], int]:
    """At least ``wanted`` moves with a cache: its name, the seeds that were used, and the moves."""
    CacheMachine.n_moves = 0
    seeds: list[int] = []
    while CacheMachine.n_moves < wanted:
        seeds.append(first_seed + len(seeds))
        print(f"{name}: CACHE_TEST_SEED={seeds[-1]}, {CacheMachine.n_moves} moves so far")
        left = wanted - CacheMachine.n_moves
        drive(name, n_examples=min(100, left // 60 + 1), n_steps=100, with_seed=seeds[-1])
    return name, seeds, CacheMachine.n_moves
