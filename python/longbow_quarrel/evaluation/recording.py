"""Writing a logits base while a perplexity is measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from longbow_quarrel.evaluation.compact import CompactRows, compress, join_rows
from longbow_quarrel.evaluation.logits_base import BaseChunk, BaseHeader, LogitsBaseWriter
from longbow_quarrel.evaluation.perplexity import ScoredLogits

CHUNKS = 64  # of 512 tokens they are 16,320 rows, some 30 MB
TOKENS = 512
SAMPLES = 64
_SEED = 20231


class Recorder:
    """A sink of :func:`.perplexity.perplexity` that keeps chunks spread evenly over the text.

    Args:
        n_chunks: how many to keep at most.
        k, n_samples: see :mod:`.compact`.
    """

    def __init__(
        self,
        path: Path,
        *,
        vocab_size: int,
        model: str,
        made_by: str,
        n_chunks: int = CHUNKS,
        k: int = TOKENS,
        n_samples: int = SAMPLES,
    ) -> None:
        self._path = path
        self._vocab_size = vocab_size
        self._model = model
        self._made_by = made_by
        self._n_chunks = n_chunks
        self._k = min(k, vocab_size)
        self._n_samples = n_samples if self._k < vocab_size else 0
        self._kept: set[int] = set()
        self._stack = ExitStack()
        self._writer: LogitsBaseWriter | None = None

    def begin(self, n_chunks: int, n_ctx: int) -> None:
        kept = min(self._n_chunks, n_chunks)
        self._kept = {i * n_chunks // kept for i in range(kept)}
        header = BaseHeader(
            vocab_size=self._vocab_size,
            n_ctx=n_ctx,
            n_chunks=kept,
            k=self._k,
            n_samples=self._n_samples,
            made_by=self._made_by,
            model=self._model,
        )
        self._writer = self._stack.enter_context(LogitsBaseWriter(self._path, header))

    def chunk(
        self, index: int, tokens: NDArray[np.int32], parts: Iterator[ScoredLogits]
    ) -> Iterator[ScoredLogits]:
        if index not in self._kept:
            yield from parts
            return
        assert self._writer is not None
        start = index * len(tokens)
        position = len(tokens) // 2
        kept: list[CompactRows] = []
        for logits, targets in parts:
            positions = np.arange(position, position + len(logits), dtype=np.int32)
            kept.append(
                compress(
                    logits,
                    positions,
                    targets,
                    k=self._k,
                    n_samples=self._n_samples,
                    seed=_SEED + start,
                )
            )
            position += len(logits)
            yield logits, targets
        self._writer.add(BaseChunk(start, tokens, join_rows(kept)))

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, value, trace)
