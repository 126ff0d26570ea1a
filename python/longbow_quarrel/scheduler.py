"""Which tokens of which requests the next step computes."""

from __future__ import annotations

import time
from collections import deque
from typing import NamedTuple

from longbow_quarrel import _core
from longbow_quarrel.cache import tokens_for
from longbow_quarrel.errors import OutOfMemoryError
from longbow_quarrel.observer import EngineObserver
from longbow_quarrel.request import Request


class ScheduledChunk(NamedTuple):
    """Compute the next ``n_tokens`` of a request; its last row's logits are wanted at the end of
    what is known so far."""

    request: Request
    n_tokens: int

    @property
    def samples(self) -> bool:
        return self.request.n_computed + self.n_tokens == self.request.n_tokens

    @property
    def is_decode(self) -> bool:
        """Whether it continues the prompt; the last token of one that was cut does not. A device
        may compute the two with different kernels."""
        return self.n_tokens == 1 and self.request.n_computed >= self.request.n_prompt


class Scheduler:
    """First come, first served, under a budget of tokens and sequences.

    Running requests that decode take one token each, so no prefill can make them wait longer than
    a step; prompts are cut into chunks that fill what the budget leaves (Agrawal et al.,
    "Sarathi-Serve", 2024), small ones while others decode, who wait for them. When blocks run out
    the newest running request is preempted: it gives its blocks back, waits in front of all
    others, and computes its tokens again. Nobody starves: the oldest running request is never
    preempted for another, and nobody overtakes in the queue.

    Several texts of one prompt compute it once: a leader computes, its followers fork.
    """

    def __init__(
        self,
        cache: _core.KVCache,
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        max_mixed_prefill_tokens: int,
        observer: EngineObserver,
    ) -> None:
        self._cache = cache
        self._tokens = tokens_for(cache)
        # Each running request must get its token in every step.
        self._max_running = min(max_num_seqs, max_num_batched_tokens)
        self._max_num_batched_tokens = max_num_batched_tokens
        self._max_mixed_prefill_tokens = max_mixed_prefill_tokens
        self.observer = observer
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []  # oldest first
        self.n_preemptions = 0
        self._is_full = False  # the next waiting request found no room, and none has come since

    def add(self, request: Request) -> None:
        self.waiting.append(request)

    def schedule(self) -> list[ScheduledChunk]:
        """The chunks of the next step, with slots reserved; empty when there is nothing to do.

        Those that decode come first.
        """
        self._admit()
        chunks: list[ScheduledChunk] = []
        missing = [(r.n_tokens - r.n_computed, r) for r in self.running]
        single = [pair for pair in missing if pair[0] == 1]  # those that decode
        budget = self._max_num_batched_tokens
        if any(request.is_read_as_it_comes for _, request in single):
            budget = min(budget, len(single) + self._max_mixed_prefill_tokens)
        for n_missing, request in single + [pair for pair in missing if pair[0] > 1]:
            n = min(n_missing, budget)
            if n == 0:
                break
            # A preempted request has no sequence; it may be one that was scheduled before.
            if request.sequence is not None and self._make_room(request, n):
                chunks.append(ScheduledChunk(request, n))
                budget -= n
        kept = [chunk for chunk in chunks if chunk.request.sequence is not None]
        return sorted(kept, key=lambda chunk: not chunk.is_decode)

    def finish(self, request: Request, reason: str) -> None:
        """Take a request out, whatever state it is in, and give its blocks back."""
        request.finish_reason = reason
        request.timings.finished = time.perf_counter()
        if request in self.running:
            self.running.remove(request)
        elif request in self.waiting:
            self.waiting.remove(request)
        elif request.leader is not None and request in request.leader.followers:
            request.leader.followers.remove(request)
        self._dismiss_followers(request)
        self._is_full = False  # there is room, or another request is next
        self.observer.finished(request)
        if request.sequence is not None:
            sequence, request.sequence = request.sequence, None
            self._cache.release(sequence)

    def withdraw(self, request: Request) -> None:
        """Take a request out without ending it: another scheduler may go on with it, from its
        tokens. Those that follow it come along."""
        if request in self.running:
            self.running.remove(request)
        else:
            self.waiting.remove(request)
        self._is_full = False
        sequence, request.sequence = request.sequence, None
        request.n_computed = 0
        if sequence is not None:
            self._cache.release(sequence)

    def resume(self, request: Request) -> None:
        """Queue a request in front of all others, like one that was preempted."""
        self.waiting.appendleft(request)
        self._is_full = False

    def fork_followers(self, request: Request) -> list[Request]:
        """Let the other texts of a computed prompt share its sequence.

        Returns those that do and can be sampled from the same logits; where there is no room for
        them they wait like any request.
        """
        assert request.sequence is not None
        forked: list[Request] = []
        followers, request.followers = request.followers, []
        for follower in followers:
            follower.leader = None
            fork = None
            if len(self.running) < self._max_running:
                fork = self._cache.fork(request.sequence)
            if fork is None or not fork.reservation:
                self.waiting.append(follower)
                continue
            follower.sequence = fork.sequence
            follower.n_computed = request.n_computed
            self._start(follower, request.cached_tokens, request.miss_reason)
            self.running.append(follower)
            forked.append(follower)
        return forked

    @property
    def n_waiting(self) -> int:
        """Requests that have no sequence, followers included."""
        requests = [*self.waiting, *self.running]
        return len(self.waiting) + sum(len(r.followers) for r in requests)

    def _dismiss_followers(self, leader: Request) -> None:
        followers, leader.followers = leader.followers, []
        for follower in followers:
            follower.leader = None
            if leader.error is None:
                self.waiting.append(follower)
            else:
                follower.error = leader.error
                self.finish(follower, "error")

    def _make_room(self, request: Request, n_tokens: int) -> bool:
        """Reserve slots, preempting newer requests for them; False if it was the newest itself."""
        assert request.sequence is not None
        while not (room := self._cache.reserve(request.sequence, n_tokens)):
            victim = self.running[-1]
            self._preempt(victim, room.reason)
            if victim is request:
                return False
        return True

    def _preempt(self, request: Request, reason: str) -> None:
        assert request.sequence is not None
        self.running.remove(request)
        self._cache.release(request.sequence)
        request.sequence = None
        request.n_computed = 0
        self.waiting.appendleft(request)
        self._is_full = False  # its blocks are free, and it is next
        self.n_preemptions += 1
        self.observer.preempted(request, reason)

    def _admit(self) -> None:
        while self.waiting and len(self.running) < self._max_running and not self._is_full:
            request = self.waiting[0]
            match, reason = self._open(request)
            if match is None:
                if self.running:
                    self._is_full = True  # room comes when one of them ends
                    return
                self._refuse(request, reason)
                continue
            self.waiting.popleft()
            self.running.append(request)
            request.sequence = match.sequence
            request.n_computed = match.n_tokens
            if request.timings.started is None:  # else it resumes after a preemption
                self._start(request, match.n_tokens, match.miss_reason)

    def _open(self, request: Request) -> tuple[_core.PrefixMatch | None, str]:
        """A sequence with room for all that is known, so that a long prompt is not admitted to be
        preempted; or the reason why there is none."""
        prompt = self._tokens(request.ids[: request.n_tokens])
        try:
            match = request.saved and request.saved.open(prompt, request.max_total)
            match = match or self._cache.match_prefix(prompt, request.max_total)
        except (OutOfMemoryError, MemoryError):
            return None, "no_memory"
        room = self._cache.reserve(match.sequence, request.n_tokens - match.n_tokens)
        if room:
            return match, ""
        self._cache.release(match.sequence)
        return None, room.reason

    def _start(self, request: Request, cached_tokens: int, miss_reason: str) -> None:
        request.cached_tokens = cached_tokens
        request.miss_reason = miss_reason
        request.timings.started = time.perf_counter()
        self.observer.started(request)

    def _refuse(self, request: Request, reason: str) -> None:
        self.observer.refused(reason)
        request.error = OutOfMemoryError(
            f"A text of {request.max_total} tokens does not fit in the KV cache ({reason}); "
            "ask for fewer tokens or raise kv_cache_memory."
        )
        self.finish(request, "error")
