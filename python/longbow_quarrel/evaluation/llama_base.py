"""Files that ``llama-perplexity --kl-divergence-base`` writes.

Layout, little-endian: ``_logits_``; int32 n_ctx, vocab_size, n_chunks; int32 tokens
[n_chunks, n_ctx]; then for each chunk and scored position (n_ctx // 2 to n_ctx - 2) a row:
float32 scale and least log-probability, and uint16 [vocab_size], padded to an even number. A
log-probability is ``scale * code + least``; what lies more than 16 below the highest logit has
code 0.

Rounding moves a log-probability by up to half a scale (1.2e-4 at most, where a row spans all of 16
nats), and rows are not normalised again, so that single divergences have an error of that size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longbow_quarrel.errors import LogitsBaseError
from longbow_quarrel.evaluation.compact import RowDivergences, log_softmax

MAGIC = b"_logits_"
_HEADER_BYTES = len(MAGIC) + 12
_LEAST = -16.0  # log-probabilities up to here do not count, as in llama-perplexity


@dataclass(frozen=True)
class LlamaChunk:
    """A piece of the text with llama.cpp's predictions; see :class:`.logits_base.BaseChunk`.

    Attributes:
        rows: uint16 [n_scored, row_length], as they are in the file.
    """

    start: int
    tokens: NDArray[np.int32]
    rows: NDArray[np.uint16]

    @property
    def positions(self) -> NDArray[np.int32]:
        n_ctx = len(self.tokens)
        return np.arange(n_ctx // 2, n_ctx - 1, dtype=np.int32)

    def compare(self, first: int, logits: NDArray[np.float32]) -> RowDivergences:
        """The rows from ``first`` on beside logits [n_rows, vocab_size], by llama-perplexity's sum.

        Bounds are not known and no sample was drawn.
        """
        n_rows, vocab_size = logits.shape
        log_p = log_probs(self.rows[first : first + n_rows], vocab_size)
        log_q = log_softmax(logits)
        position = self.positions[first : first + n_rows]
        target = self.tokens[position + 1]
        counted = log_p > _LEAST
        terms = np.where(counted, np.exp(log_p) * (log_p - log_q), 0.0)
        index = np.arange(n_rows)
        return RowDivergences(
            kl=terms.sum(axis=1),
            lower=None,
            upper=None,
            variance=np.zeros(n_rows),
            same_top=logits.argmax(axis=1) == log_p.argmax(axis=1),
            losses=-log_q[index, target],
            base_losses=-log_p[index, target].astype(np.float64),
        )


class LlamaBase:
    """Reads such a file, a chunk at a time. Nothing in the file is trusted.

    Raises:
        LogitsBaseError: it cannot be read or is damaged, here or in :meth:`chunks`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                head = file.read(_HEADER_BYTES)
            n_bytes = path.stat().st_size
        except OSError as e:
            raise LogitsBaseError(f"{path} cannot be read ({e.strerror}).") from None
        self._need(head[: len(MAGIC)] == MAGIC, "it does not begin like one")
        self._need(len(head) == _HEADER_BYTES, "it ends early")
        sizes = np.frombuffer(head, "<i4", offset=len(MAGIC))
        self.n_ctx, self.vocab_size, self.n_chunks = (int(n) for n in sizes)
        self._need(
            self.n_ctx >= 4 and self.vocab_size >= 1 and self.n_chunks >= 1,
            "its header has numbers out of range",
        )
        self._row_length = 2 * ((self.vocab_size + 1) // 2) + 4
        self._n_scored = self.n_ctx - 1 - self.n_ctx // 2
        needed = _HEADER_BYTES + self.n_chunks * (4 * self.n_ctx + self._chunk_bytes)
        self._need(
            n_bytes == needed,
            f"it has {n_bytes} bytes where {needed} belong, so writing it was cut short or its "
            "header is damaged",
        )

    @property
    def longest_chunk(self) -> int:
        """Tokens of it."""
        return self.n_ctx

    def describe(self) -> dict[str, Any]:
        """The header as plain data."""
        return {
            "format": "llama-perplexity",
            "vocab_size": self.vocab_size,
            "n_ctx": self.n_ctx,
            "n_chunks": self.n_chunks,
        }

    def chunks(self) -> Iterator[LlamaChunk]:
        for i in range(self.n_chunks):
            tokens = self._array("<i4", _HEADER_BYTES + 4 * i * self.n_ctx, (self.n_ctx,))
            self._need(
                tokens.min() >= 0 and tokens.max() < self.vocab_size,
                "a token is not in the vocabulary",
            )
            at = _HEADER_BYTES + 4 * self.n_ctx * self.n_chunks + i * self._chunk_bytes
            rows = self._array("<u2", at, (self._n_scored, self._row_length))
            scale, least = grid(rows)
            self._need(
                ((scale >= 0) & (scale < 1) & (np.abs(least) < 1e5)).all(),
                "a row's scale is out of range",
            )
            self._need(
                (scale * rows[:, 4:].max(axis=1) + least < 1e-2).all(),
                "a probability is above one",
            )
            yield LlamaChunk(i * self.n_ctx, tokens.astype(np.int32), rows)

    @property
    def _chunk_bytes(self) -> int:
        return 2 * self._n_scored * self._row_length

    def _array(self, kind: str, at: int, shape: tuple[int, ...]) -> NDArray[Any]:
        try:
            flat = np.fromfile(self.path, kind, math.prod(shape), offset=at)
        except OSError as e:
            raise LogitsBaseError(f"{self.path} cannot be read ({e.strerror}).") from None
        self._need(len(flat) == math.prod(shape), "it ends early")
        return flat.reshape(shape)

    def _need(self, condition: Any, what: str) -> None:
        if not condition:
            raise LogitsBaseError(
                f"{self.path} is no usable file of llama-perplexity: {what}; make it again."
            )


def log_probs(rows: NDArray[np.uint16], vocab_size: int) -> NDArray[np.float32]:
    """float32 [n_rows, vocab_size] of rows as they are in the file."""
    scale, least = grid(rows)
    return scale[:, None] * rows[:, 4 : 4 + vocab_size] + least[:, None]


def grid(rows: NDArray[np.uint16]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scale and least log-probability of each row, float32 [n_rows]."""
    pairs = np.ascontiguousarray(rows[:, :4]).view("<f4").astype(np.float32, copy=False)
    return pairs[:, 0], pairs[:, 1]
