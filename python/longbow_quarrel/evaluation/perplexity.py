"""Perplexity of a text, by llama-perplexity's method, so that figures can be compared.

The text is tokenised as a whole, special tokens not parsed, BOS added where the model asks for it,
and cut into chunks of ``n_ctx`` tokens; what is left over is not used. Each chunk is computed on
its own, its first token replaced by BOS where the model adds one. Positions n_ctx // 2 to
n_ctx - 2 are scored on the token after them, so that every one has at least half a chunk to look
back on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from longbow_quarrel.engine import Engine
from longbow_quarrel.errors import ContextLengthError, UsageError

_BYTES_OF_LOGITS = 16 << 20  # what a step's logits may take

ScoredLogits = tuple[NDArray[np.float32], NDArray[np.int32]]


@dataclass(frozen=True)
class Perplexity:
    """How well a model predicts a text.

    Attributes:
        perplexity: exp of the mean negative log-likelihood of the scored tokens.
        standard_error: of ``perplexity``, taking the scored tokens as independent.
        n_ctx: tokens of a chunk.
        n_scored: tokens that were predicted.
        n_tokens: tokens that were computed.
        seconds: of computing, loading and tokenising left out.
    """

    perplexity: float
    standard_error: float
    n_ctx: int
    n_chunks: int
    n_scored: int
    n_tokens: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self.n_tokens / self.seconds


class Sink(Protocol):
    """Who wants to see predictions while they are measured."""

    def begin(self, n_chunks: int, n_ctx: int) -> None: ...

    def chunk(
        self, index: int, tokens: NDArray[np.int32], parts: Iterator[ScoredLogits]
    ) -> Iterator[ScoredLogits]:
        """Hands on ``parts``, :func:`scored_logits` of a chunk, all of which will be asked for."""


def perplexity(
    engine: Engine,
    text: str,
    *,
    n_ctx: int = 512,
    n_chunks: int | None = None,
    progress: Callable[[int, int, float], None] | None = None,
    sink: Sink | None = None,
) -> Perplexity:
    """Measure a model on ``text``; the engine must be idle.

    Args:
        n_ctx: tokens of a chunk, at least 4.
        n_chunks: how many chunks to use at most; None uses all.
        progress: told after each chunk how many are done, of how many, and the perplexity so far.
        sink: shown all logits that are scored.

    Raises:
        UsageError: ``n_ctx`` or ``n_chunks`` is out of range, or the text is shorter than two
            chunks.
        ContextLengthError: a chunk does not fit in the engine's context.
    """
    tokens = text_tokens(engine, text, n_ctx)
    n_chunks = _number_of_chunks(len(tokens), n_ctx, n_chunks)
    losses = np.empty((n_chunks, n_ctx - 1 - n_ctx // 2))
    if sink is not None:
        sink.begin(n_chunks, n_ctx)
    started = time.perf_counter()
    for i in range(n_chunks):
        chunk = tokens[i * n_ctx : (i + 1) * n_ctx]
        parts = scored_logits(engine, chunk)
        if sink is not None:
            parts = sink.chunk(i, chunk, parts)
        losses[i] = np.concatenate([token_losses(*part) for part in parts])
        if progress is not None:
            progress(i + 1, n_chunks, math.exp(losses[: i + 1].mean()))
    seconds = time.perf_counter() - started
    value = math.exp(losses.mean())
    return Perplexity(
        perplexity=value,
        # By the delta method: d exp(x) = exp(x) dx.
        standard_error=value * math.sqrt(losses.var() / (losses.size - 1)),
        n_ctx=n_ctx,
        n_chunks=n_chunks,
        n_scored=losses.size,
        n_tokens=n_chunks * n_ctx,
        seconds=seconds,
    )


def scored_logits(engine: Engine, chunk: NDArray[np.int32]) -> Iterator[ScoredLogits]:
    """Logits of the second half of ``chunk``, int32 [n_ctx], some rows at a time.

    Yields logits [n_rows, vocab_size], valid until the next ones, and the tokens [n_rows] that
    follow. Engines of one vocabulary and token budget yield equal numbers of rows.
    """
    positions = np.arange(len(chunk) // 2, len(chunk) - 1, dtype=np.int32)
    for rows, logits in row_logits(engine, chunk, positions):
        yield logits, chunk[positions[rows] + 1]


def row_logits(
    engine: Engine, chunk: NDArray[np.int32], positions: NDArray[np.int32]
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Logits of some positions of ``chunk``, ascending, its first token replaced by BOS.

    Yields which of ``positions``, and their logits, valid until the next ones.
    """
    tokenizer = engine.tokenizer
    computed = chunk[: int(positions[-1]) + 1].copy()  # what comes later is not needed
    if tokenizer.add_bos:
        assert tokenizer.bos_id is not None  # the tokenizer insists on it
        computed[0] = tokenizer.bos_id
    rows = max(1, _BYTES_OF_LOGITS // (4 * engine.vocab_size))
    yield from engine.runner.iter_logits_at(
        computed, positions, min(rows, engine.runner.max_tokens)
    )


def token_losses(logits: NDArray[np.float32], targets: NDArray[np.int32]) -> NDArray[np.float64]:
    """Negative log-softmax of each row at its target; sums in double precision."""
    wanted = logits[np.arange(len(targets)), targets]
    losses: NDArray[np.float64] = log_sum_exp(logits) - wanted
    return losses


def log_sum_exp(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of each row of [n_rows, vocab_size]."""
    highest = logits.max(axis=1)
    sums = np.exp(logits - highest[:, None]).sum(axis=1, dtype=np.float64)
    result: NDArray[np.float64] = np.log(sums) + highest.astype(np.float64)
    return result


def text_tokens(engine: Engine, text: str, n_ctx: int) -> NDArray[np.int32]:
    """Tokens of ``text``, of which chunks of ``n_ctx`` can be measured.

    Raises:
        UsageError: ``n_ctx`` is too small.
        ContextLengthError: a chunk does not fit in the engine's context.
    """
    if n_ctx < 4:
        raise UsageError(f"A chunk must have at least 4 tokens, not {n_ctx}.")
    fits = engine.runner.max_text_tokens
    if n_ctx > fits:
        raise ContextLengthError(
            f"Chunks of {n_ctx} tokens do not fit: this model and cache hold {fits}; use smaller "
            "chunks or raise kv_cache_memory."
        )
    return np.array(engine.tokenizer.encode(text, add_special=True), np.int32)


def _number_of_chunks(n_tokens: int, n_ctx: int, wanted: int | None) -> int:
    if wanted is not None and wanted < 1:
        raise UsageError(f"The number of chunks must be at least 1, not {wanted}.")
    if n_tokens < 2 * n_ctx:
        raise UsageError(
            f"The text has {n_tokens} tokens but at least {2 * n_ctx} are needed for chunks of "
            f"{n_ctx}; use a longer text or smaller chunks."
        )
    available = n_tokens // n_ctx
    return available if wanted is None else min(wanted, available)
