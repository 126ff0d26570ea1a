"""What a strategy costs in quality, by depth: divergence from a base, and perplexity.

A text is cut into chunks as long as the greatest depth. At each depth the last ``n_rows``
positions before it are scored: there the model looks back on that many tokens. The base is the
contiguous cache with float32 K and V, which keeps everything and rounds nothing; it is computed in
the same run on the same kernels, so that what differs is the strategy alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from longbow_quarrel import _core
from longbow_quarrel.benchmarking.contender import Contender, parse_contender
from longbow_quarrel.benchmarking.measure import config_for_texts
from longbow_quarrel.engine import Engine
from longbow_quarrel.errors import UsageError
from longbow_quarrel.evaluation.comparison import compare, open_base
from longbow_quarrel.evaluation.divergence import kl_divergence
from longbow_quarrel.evaluation.perplexity import token_losses
from longbow_quarrel.model_runner import ModelRunner
from longbow_quarrel.tokenizer import Tokenizer

BASE = "contiguous:ctk=f32:ctv=f32"
_LEAST_DEPTH = 64


@dataclass(frozen=True)
class QualityRow:
    """One contender at one depth, over all chunks.

    Attributes:
        depth: tokens that the last scored position looks back on, itself included.
        kl_mean: KL(base || contender), nats.
        same_top: share of positions whose likeliest token is the base's.
        perplexity: of the text's own next tokens at these positions.
        base_perplexity: of the base at the same positions.
        base: what it was compared with.
    """

    contender: str
    depth: int
    n_scored: int
    kl_mean: float
    kl_p99: float
    same_top: float
    perplexity: float
    base_perplexity: float
    base: str = BASE


def depths_up_to(longest: int, lengths: Sequence[int]) -> list[int]:
    """Powers of two from 64 on, and ``lengths``, as far as ``longest``."""
    found = {n for n in lengths if n <= longest} | {longest}
    depth = _LEAST_DEPTH
    while depth < longest:
        found.add(depth)
        depth *= 2
    return sorted(found)


class QualityBench:
    """Scores contenders on a text.

    Args:
        n_rows: positions scored at each depth of each chunk.
        tell: told contender by contender what is being computed.

    Raises:
        UsageError: the text is too short.
    """

    def __init__(
        self,
        model: Path,
        text: str,
        depths: Sequence[int],
        *,
        base: Contender,
        n_chunks: int,
        n_rows: int,
        tell: Callable[[str], None],
    ) -> None:
        self._model = model
        self._file = _core.GGUFFile(str(model))
        self._depths = sorted(depths)
        self._n_rows = n_rows
        self._tell = tell
        self._base = parse_contender(BASE, base.config.model_copy(update={"window": None}))
        length = self._depths[-1] + 1  # the last scored position has a next token too
        self._chunks = self._cut(text, length, n_chunks)

    def run(self, contenders: Sequence[Contender]) -> list[QualityRow]:
        """Rows of all contenders, in their order; chunk by chunk, to bound the memory."""
        scores: dict[tuple[str, int], list[_Score]] = {}
        for chunk in self._chunks:
            base = list(self._scored(self._base, chunk))
            for contender in contenders:
                for depth, (want, targets), (got, _) in zip(
                    self._depths, base, self._scored(contender, chunk), strict=True
                ):
                    score = _score(want, got, targets)
                    scores.setdefault((contender.name, depth), []).append(score)
        return [
            _row(contender.name, depth, scores[contender.name, depth])
            for contender in contenders
            for depth in self._depths
        ]

    @property
    def n_steps(self) -> int:
        """How often ``tell`` is called for one contender; the base counts as one."""
        return len(self._chunks)

    def _cut(self, text: str, length: int, n_chunks: int) -> list[NDArray[np.int32]]:
        tokenizer = Tokenizer.from_metadata(self._file.metadata)
        tokens = np.array(tokenizer.encode(text, add_special=True), np.int32)
        if len(tokens) < n_chunks * length:
            raise UsageError(
                f"The text has {len(tokens)} tokens but {n_chunks} chunks of {length} are wanted; "
                "give a longer one with -f, or fewer --chunks or shorter --lengths."
            )
        chunks = [tokens[i * length : (i + 1) * length].copy() for i in range(n_chunks)]
        if tokenizer.add_bos:
            assert tokenizer.bos_id is not None  # the tokenizer insists on it
            for chunk in chunks:
                chunk[0] = tokenizer.bos_id
        return chunks

    def _scored(
        self, contender: Contender, chunk: NDArray[np.int32]
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int32]]]:
        """Logits before each depth, [n_rows, vocab_size], and the tokens that follow."""
        self._tell(contender.name)
        config = config_for_texts(self._file, contender.config, len(chunk), 1, reuse=False)
        runner = Engine(self._model, config).runner
        sequence = runner.cache.match_prefix(chunk[:1], len(chunk)).sequence
        done = 0
        for depth in self._depths:
            first = max(done, depth - self._n_rows)
            runner.prefill(sequence, chunk[done:first])
            logits = _logits(runner, sequence, chunk[first:depth])
            yield logits, chunk[first + 1 : depth + 1]
            done = depth


def against_file(
    model: Path, contenders: Sequence[Contender], path: Path, tell: Callable[[str], None]
) -> list[QualityRow]:
    """The same with predictions from a file as the base, of this package or llama-perplexity.

    A row stands for the depths up to its own, down to that of the row before.

    Raises:
        LogitsBaseError: the file cannot be used with this model.
    """
    base = open_base(path)
    file = _core.GGUFFile(str(model))
    rows = []
    for contender in contenders:
        tell(contender.name)
        config = config_for_texts(file, contender.config, base.longest_chunk, 1, reuse=False)
        rows += [
            QualityRow(
                contender=contender.name,
                depth=d.last_depth,
                n_scored=d.n_rows,
                kl_mean=d.kl_mean,
                kl_p99=d.kl_p99,
                same_top=d.same_top,
                perplexity=d.perplexity,
                base_perplexity=d.base_perplexity,
                base=path.name,
            )
            for d in compare(Engine(model, config), base).by_depth
        ]
    return rows


@dataclass(frozen=True)
class _Score:
    divergence: NDArray[np.float64]
    agrees: NDArray[np.bool_]
    losses: NDArray[np.float64]
    base_losses: NDArray[np.float64]


def _logits(runner: ModelRunner, sequence: int, part: NDArray[np.int32]) -> NDArray[np.float32]:
    rows: list[NDArray[np.float32]] = []
    for start in range(0, len(part), runner.max_tokens):
        piece = part[start : start + runner.max_tokens]
        if not runner.cache.reserve(sequence, len(piece)):
            raise UsageError("The text does not fit in the KV cache; raise kv_cache_memory.")
        rows.append(runner.step([sequence], [piece], range(len(piece))).copy())
    return np.concatenate(rows)


def _score(
    want: NDArray[np.float32], got: NDArray[np.float32], targets: NDArray[np.int32]
) -> _Score:
    return _Score(
        divergence=kl_divergence(want, got),
        agrees=want.argmax(axis=1) == got.argmax(axis=1),
        losses=token_losses(got, targets),
        base_losses=token_losses(want, targets),
    )


def _row(name: str, depth: int, scores: Sequence[_Score]) -> QualityRow:
    divergence = np.concatenate([s.divergence for s in scores])
    return QualityRow(
        contender=name,
        depth=depth,
        n_scored=len(divergence),
        kl_mean=float(divergence.mean()),
        kl_p99=float(np.quantile(divergence, 0.99)),
        same_top=float(np.concatenate([s.agrees for s in scores]).mean()),
        perplexity=math.exp(np.concatenate([s.losses for s in scores]).mean()),
        base_perplexity=math.exp(np.concatenate([s.base_losses for s in scores]).mean()),
    )
