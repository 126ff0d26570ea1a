"""A naive twin of the KV cache, for hypothesis: a dictionary holds what each slot contains.

What K and V of a token hold depends on all tokens up to it, so the twin's content of a position is
the text up to there. Device memory is a dictionary from (group, slot) to content: a step's writes
and the cache's block copies change it, and whatever a sequence may see must be its own text.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from longbow_quarrel import _core

Content = tuple[int, ...]


@dataclass
class TwinSequence:
    id: int
    max_tokens: int
    tokens: list[int] = field(default_factory=list)


class Twin:
    """max_step_tokens: how far ahead groups with a window reserve at most; 0 for any number."""

    def __init__(self, cache: _core.KVCache, n_blocks: list[int], max_step_tokens: int = 0):
        self.cache = cache
        self.n_blocks = n_blocks
        self.max_step_tokens = max_step_tokens
        self.memory: dict[tuple[int, int], Content] = {}
        self.sequences: list[TwinSequence] = []
        self.published: set[Content] = set()
        self.maybe_lost: set[Content] = set()  # cut by a trim: a rewrite may have taken them back

    def open(self, prompt: list[int], max_tokens: int) -> TwinSequence:
        match = self.cache.match_prefix(np.array(prompt, np.int32), max_tokens)
        assert 0 <= match.n_tokens < max(len(prompt), 1)
        assert match.miss_reason != ""
        sequence = TwinSequence(match.sequence, max_tokens, prompt[: match.n_tokens])
        self.sequences.append(sequence)
        self.check_longest(prompt, max_tokens, match)
        return sequence

    def check_longest(self, prompt: list[int], max_tokens: int, match: _core.PrefixMatch) -> None:
        """While nothing was evicted, a paged cache finds every published text again."""
        if self.cache.strategy != "paged" or match.miss_reason == "disabled":
            return
        limit = min(len(prompt) - 1, max_tokens)
        assert match.n_tokens <= self.longest(prompt[:limit], self.published)
        if self.cache.stats().n_evicted_blocks == 0:
            sure = self.published - self.maybe_lost
            assert match.n_tokens >= self.longest(prompt[:limit], sure), match.miss_reason

    def longest(self, text: list[int], known: set[Content]) -> int:
        size = self.cache.block_size
        n = 0
        while n + size <= len(text) and tuple(text[: n + size]) in known:
            n += size
        return n

    def reserve(self, sequence: TwinSequence, n: int) -> bool:
        before = self.cache.block_tables(sequence.id)
        room = self.cache.reserve(sequence.id, n)
        too_long = len(sequence.tokens) + n > sequence.max_tokens
        assert bool(room) == (room.reason == "")
        assert too_long == (room.reason == "sequence_full")
        if not room:
            assert self.cache.block_tables(sequence.id) == before
        assert room.reason in ("", "sequence_full", "no_free_blocks", "no_memory")
        if room.reason == "no_free_blocks" and self.cache.strategy != "contiguous":
            self.check_refusal(sequence, n)
        return bool(room)

    def check_refusal(self, sequence: TwinSequence, n: int) -> None:
        """Out of blocks only when some group really lacks them."""
        size = self.cache.block_size
        lacking = False
        for group, table in enumerate(self.cache.block_tables(sequence.id)):
            used = {
                block
                for other in self.sequences
                for block in self.cache.block_tables(other.id)[group]
                if block >= 0
            }
            window, _ = self.cache.group_spec(group)
            ahead = min(n, self.max_step_tokens) if window and self.max_step_tokens else n
            end = -(-(len(sequence.tokens) + ahead) // size)
            wanted = max(end - len(table), 0)
            copies = len(sequence.tokens) % size != 0
            lacking |= wanted + copies > self.n_blocks[group] - len(used)
        assert lacking

    def compute(self, parts: list[tuple[TwinSequence, list[int]]], *, succeeds: bool) -> None:
        self.apply_copies()
        for sequence, tokens in parts:
            tables = self.cache.block_tables(sequence.id)
            text = tuple(sequence.tokens)
            for token in tokens:
                text += (token,)
                for group in range(len(tables)):
                    slot = self.slot(tables[group], len(text) - 1)
                    assert slot is not None
                    self.memory[group, slot] = text if succeeds else ()
        if succeeds:
            for sequence, tokens in parts:
                self.commit(sequence, tokens)

    def commit(self, sequence: TwinSequence, tokens: list[int]) -> None:
        self.cache.commit(sequence.id, np.array(tokens, np.int32))
        sequence.tokens += tokens
        size = self.cache.block_size
        for end in range(size, len(sequence.tokens) + 1, size):
            text = tuple(sequence.tokens[:end])
            self.published.add(text)
            if end > len(sequence.tokens) - len(tokens):
                self.maybe_lost.discard(text)

    def fork(self, parent: TwinSequence) -> TwinSequence | None:
        fork = self.cache.fork(parent.id)
        if not fork.reservation:
            # Elsewhere than in a contiguous cache a fork takes no blocks.
            assert self.cache.strategy == "contiguous" or fork.reservation.reason == "no_memory"
            return None
        child = TwinSequence(fork.sequence, parent.max_tokens, list(parent.tokens))
        self.sequences.append(child)
        return child

    def trim(self, sequence: TwinSequence, n: int) -> None:
        held = self.cache.trim(sequence.id, n)
        size = self.cache.block_size
        if held % size:
            self.maybe_lost.add(tuple(sequence.tokens[: -(-held // size) * size]))
        assert 0 <= held <= n
        if all(self.cache.group_spec(g)[0] == 0 for g in range(self.cache.n_groups)):
            assert held == n
        del sequence.tokens[held:]

    def release(self, sequence: TwinSequence) -> None:
        self.cache.release(sequence.id)
        self.sequences.remove(sequence)

    def slot(self, table: list[int], position: int) -> int | None:
        block, offset = divmod(position, self.cache.block_size)
        if block >= len(table) or table[block] < 0:
            return None
        return table[block] * self.cache.block_size + offset

    def apply_copies(self) -> None:
        for group, source, target in self.cache.take_copies():
            self.copy_block(group, source, target)

    def copy_block(self, group: int, source: int, target: int) -> None:
        size = self.cache.block_size
        for i in range(size):
            content = self.memory.get((group, source * size + i), ())
            self.memory[group, target * size + i] = content

    def check(self) -> None:
        self.cache.check_invariants()
        self.apply_copies()
        for sequence in self.sequences:
            self.check_contents(sequence)
        stats = self.cache.stats()
        assert stats.n_sequences == len(self.sequences)
        assert stats.n_blocks == sum(self.n_blocks)
        assert stats.n_used_blocks + stats.n_cached_blocks <= stats.n_blocks
        missed = sum(stats.n_missed_tokens.values())
        assert stats.n_prefix_hit_tokens + missed == stats.n_prefix_queries_tokens

    def check_contents(self, sequence: TwinSequence) -> None:
        tables = self.cache.block_tables(sequence.id)
        n = self.cache.n_tokens(sequence.id)
        assert n == len(sequence.tokens)
        for group, table in enumerate(tables):
            window, sinks = self.cache.group_spec(group)
            for position in range(n):
                if window and n - position >= window and position >= sinks:
                    continue
                slot = self.slot(table, position)
                assert slot is not None, (group, position)
                assert self.memory[group, slot] == tuple(sequence.tokens[: position + 1])
