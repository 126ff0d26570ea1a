"""Texts computed again on both arms, and what came out compared.

A text is compared after its answer is complete, from its tokens alone, so nothing of it can reach
the caller. The baseline computes it some rows at a time; the candidate takes its prompt as any
request does, prefix cache included, and then its first tokens one by one, as when it generates. A
comparison goes in slices between the steps of requests, and gives its blocks back when they need
them.
"""

from __future__ import annotations

import dataclasses
import logging
import time
import traceback
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from longbow_quarrel import _core
from longbow_quarrel.engine import Engine
from longbow_quarrel.errors import OutOfMemoryError
from longbow_quarrel.evaluation.divergence import kl_divergence
from longbow_quarrel.model_runner import ModelRunner
from longbow_quarrel.request import Request
from longbow_quarrel.rollout.control import Control
from longbow_quarrel.rollout.evidence import Comparison
from longbow_quarrel.sampling import SamplingParams

ROWS = 8  # of the baseline's logits that are kept while the candidate computes the same
_SLICE_TOKENS = 32  # of a prompt between two steps of others
_ONE_BY_ONE = 64  # tokens that the candidate decodes; it takes the rest as a prompt
_MAX_QUEUED = 64  # texts, of which only tokens are kept
_FULL = 0.75  # of an arm's blocks in use: no place for a comparison
_MOST_CREDIT_SECONDS = 0.1

# Exceptions are logged as text: a kept traceback would keep the candidate's memory.
_log = logging.getLogger(__name__)


def buffer_bytes(vocab_size: int) -> int:
    """What :class:`Shadows` charges to the ledger, as scratch."""
    return ROWS * vocab_size * 4


@dataclasses.dataclass(frozen=True)
class _Text:
    tokens: NDArray[np.int32]  # [n_tokens], prompt and answer
    n_prompt: int
    params: SamplingParams  # with the seed that was used


class _NoRoom(Exception):
    """Requests need the blocks."""


class Shadows:
    """Queue of finished texts, and the comparison in progress. In the engine's thread.

    Args:
        time_share: of the time that comparisons may take while there are requests.

    Raises:
        OutOfMemoryError: the ledger has no room for a few rows of logits.
    """

    def __init__(
        self, baseline: Engine, candidate: Engine, control: Control, time_share: float
    ) -> None:
        self._baseline, self._candidate, self._control = baseline, candidate, control
        n_bytes = buffer_bytes(baseline.vocab_size)
        self._charge = baseline.runner.ledger.charge("scratch", n_bytes)
        self._rows = np.empty((ROWS, baseline.vocab_size), np.float32)
        self._workspace = _core.SamplerWorkspace(baseline.vocab_size)
        self._queue: deque[_Text] = deque()
        self._running: Generator[None, None, Comparison] | None = None
        self._credit_seconds = 0.0
        self._credit_per_second = time_share / (1 - time_share)

    @property
    def has_work(self) -> bool:
        return bool(self._queue) or self._running is not None

    def offer(self, request: Request) -> None:
        """Compare a finished request when there is time."""
        if len(self._queue) >= _MAX_QUEUED:
            self._control.skipped("queue_full")
            return
        seed = request.sampler.seed
        params = dataclasses.replace(request.params, seed=seed, logprobs=None)
        tokens = request.tokens[: request.n_tokens].copy()
        self._queue.append(_Text(tokens, request.n_prompt, params))

    def others_worked(self, seconds: float) -> None:
        """Requests were computed for so long, which earns comparisons their share."""
        earned = self._credit_seconds + seconds * self._credit_per_second
        self._credit_seconds = min(earned, _MOST_CREDIT_SECONDS)

    def advance(self, *, is_idle: bool) -> None:
        """Compute one slice, if there is one and it is its turn."""
        if not self.has_work or not (is_idle or self._credit_seconds > 0):
            return
        start = time.perf_counter()
        try:
            self._slice()
        except (_NoRoom, OutOfMemoryError):
            self._abandon("no_room")
        except Exception as e:
            _log.error("a comparison failed: %s", traceback.format_exc())
            self._abandon("rollout_ended")
            self._control.failed("error", f"{type(e).__name__}: {e}")
        if not is_idle:
            self._credit_seconds -= time.perf_counter() - start

    def make_way(self) -> bool:
        """Give blocks back, which requests lack; whether there were any."""
        if self._running is None:
            return False
        self._abandon("no_room")
        return True

    def close(self) -> None:
        """Stop comparing."""
        while self.has_work:
            self._abandon("rollout_ended")

    def _abandon(self, reason: str) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.close()
        else:
            self._queue.popleft()
        self._control.skipped(reason)

    def _slice(self) -> None:
        if self._running is None:
            if any(_is_full(arm.runner) for arm in (self._baseline, self._candidate)):
                raise _NoRoom
            self._running = self._compare(self._queue.popleft())
        try:
            next(self._running)
        except StopIteration as done:
            self._running = None
            self._control.compared(done.value)
            self._check_bookkeeping()

    def _check_bookkeeping(self) -> None:
        try:
            self._candidate.runner.cache.check_invariants()
        except Exception as e:
            self._control.failed("invariant", str(e))

    # ---- One text ---------------------------------------------------------------------------

    def _compare(self, text: _Text) -> Generator[None, None, Comparison]:
        """Yields after each step of the device."""
        first = text.n_prompt - 1  # its logits, and those after it, drew the answer
        with self._open(self._baseline, text) as base, self._open(self._candidate, text) as other:
            yield from self._prefill(self._baseline, base, text.tokens[:first])
            yield from self._prefill(self._candidate, other, text.tokens[:first])
            tally = _Tally(text, self._baseline, self._workspace)
            for start in range(first, len(text.tokens) - 1, ROWS):
                part = text.tokens[start : min(start + ROWS, len(text.tokens) - 1)]
                rows = self._rows[: len(part)]
                rows[:] = self._step(self._baseline, base, part, n_rows=len(part))
                yield
                width = 1 if start - first < _ONE_BY_ONE else len(part)
                for i in range(0, len(part), width):
                    piece = part[i : i + width]
                    decodes = width == 1 and start + i > first
                    logits = self._step(
                        self._candidate, other, piece, n_rows=len(piece), decodes=decodes
                    )
                    tally.add(start + i, rows[i : i + width], logits)
                    yield
            return tally.comparison()

    @contextmanager
    def _open(self, arm: Engine, text: _Text) -> Iterator[int]:
        """A sequence with what the arm's cache holds of the prompt."""
        cache = arm.runner.cache
        match = cache.match_prefix(text.tokens[: text.n_prompt], len(text.tokens) - 1)
        try:
            yield match.sequence
        finally:
            try:
                cache.release(match.sequence)
            except Exception:  # a faulty strategy must not keep the rest from being cleaned up
                _log.error("a comparison could not let go: %s", traceback.format_exc())

    def _prefill(
        self, arm: Engine, sequence: int, tokens: NDArray[np.int32]
    ) -> Generator[None, None, None]:
        n_held = arm.runner.cache.n_tokens(sequence)
        size = min(_SLICE_TOKENS, arm.runner.max_tokens)
        for start in range(n_held, len(tokens), size):
            self._step(arm, sequence, tokens[start : start + size], n_rows=0)
            yield

    def _step(
        self,
        arm: Engine,
        sequence: int,
        part: NDArray[np.int32],
        *,
        n_rows: int,
        decodes: bool = False,
    ) -> NDArray[np.float32]:
        room = arm.runner.cache.reserve(sequence, len(part))
        if not room:
            if arm is self._candidate and not (arm.scheduler.running or arm.scheduler.waiting):
                self._control.failed(
                    "refused", f"{len(part)} tokens of a comparison, {room.reason}"
                )
            raise _NoRoom
        logits = arm.runner.step([sequence], [part], range(n_rows), int(decodes))
        self._baseline.observer.stepped(len(part), "shadow")
        return logits


class _Tally:
    """Adds positions up to a :class:`Comparison`."""

    def __init__(self, text: _Text, baseline: Engine, workspace: _core.SamplerWorkspace) -> None:
        self._text = text
        self._workspace = workspace
        self._sampler = baseline.make_sampler(text.params, 0)
        self._sampler.accept_all(text.tokens[: text.n_prompt])
        self._kl: list[float] = []
        self._n_agreeing = self._n_bits = self._n_tokens = 0

    def add(self, first: int, rows: NDArray[np.float32], logits: NDArray[np.float32]) -> None:
        """Both arms' logits, [n, vocab_size] each, of positions from ``first`` on."""
        for i, (row, other) in enumerate(zip(rows, logits, strict=True)):
            is_same = np.array_equal(row.view(np.uint32), other.view(np.uint32))
            self._n_bits += not is_same
            self._n_agreeing += is_same or int(row.argmax()) == int(other.argmax())
            self._kl.append(0.0 if is_same else float(kl_divergence(row[None], other[None])[0]))
            drawn = self._sampler.sample(row, first + i + 1, self._workspace)
            told = int(self._text.tokens[first + i + 1])
            self._n_tokens += drawn.token_id != told
            self._sampler.accept(told)

    def comparison(self) -> Comparison:
        # Rounding may leave a divergence just below zero.
        kl = [value if value != value else max(value, 0.0) for value in self._kl]
        return Comparison(kl, self._n_agreeing, self._n_bits, self._n_tokens)


def _is_full(runner: ModelRunner) -> bool:
    stats = runner.cache.stats()
    return stats.n_used_blocks > _FULL * stats.n_blocks
