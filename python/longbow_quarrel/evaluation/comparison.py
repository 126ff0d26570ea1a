"""How far an engine's predictions are from a base's, over all rows and by depth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from longbow_quarrel.engine import Engine
from longbow_quarrel.errors import ContextLengthError, LogitsBaseError, UsageError
from longbow_quarrel.evaluation import llama_base, logits_base
from longbow_quarrel.evaluation.compact import RowDivergences
from longbow_quarrel.evaluation.perplexity import row_logits

_FEW_OCTAVES = 3  # with fewer of them each is parted in four


class Chunk(Protocol):
    """A piece of a text with predictions."""

    @property
    def start(self) -> int: ...
    @property
    def tokens(self) -> NDArray[np.int32]: ...
    @property
    def positions(self) -> NDArray[np.int32]: ...
    def compare(self, first: int, logits: NDArray[np.float32]) -> RowDivergences: ...


class Base(Protocol):
    """A file of predictions."""

    @property
    def path(self) -> Path: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def n_ctx(self) -> int: ...
    @property
    def n_chunks(self) -> int: ...
    @property
    def longest_chunk(self) -> int: ...
    def chunks(self) -> Iterator[Chunk]: ...
    def describe(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Divergence:
    """KL(base || engine) in nats of the rows that follow ``first_depth`` to ``last_depth`` tokens.

    Attributes:
        n_rows: predictions that were compared.
        kl_sampling_error: standard error of ``kl_mean`` from the base's sample of unlikely tokens;
            0 where the base has them all.
        kl_mean_lower, kl_mean_upper: between which the mean lies for certain, None where the base
            does not tell.
        same_top: share of the rows where both find the same token the likeliest.
        perplexity, base_perplexity: of the tokens that follow these rows.
    """

    first_depth: int
    last_depth: int
    n_rows: int
    kl_mean: float
    kl_sampling_error: float
    kl_mean_lower: float | None
    kl_mean_upper: float | None
    kl_median: float
    kl_p99: float
    kl_max: float
    same_top: float
    perplexity: float
    base_perplexity: float


@dataclass(frozen=True)
class Comparison:
    """An engine beside a base: all rows, and those of each range of depths."""

    total: Divergence
    by_depth: tuple[Divergence, ...]


def open_base(path: Path) -> Base:
    """A base of this package or of llama-perplexity, by its first bytes.

    Raises:
        LogitsBaseError: it cannot be read, or is neither.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(8)
    except OSError as e:
        raise LogitsBaseError(
            f"{path} cannot be read ({e.strerror}); give a file of --logits-out or of "
            "llama-perplexity --kl-divergence-base."
        ) from None
    if magic == logits_base.MAGIC:
        return logits_base.LogitsBase(path)
    if magic == llama_base.MAGIC:
        return llama_base.LlamaBase(path)
    raise LogitsBaseError(
        f"{path} holds no predictions; give a file of --logits-out or of llama-perplexity "
        "--kl-divergence-base."
    )


def compare(
    engine: Engine,
    base: Base,
    *,
    n_chunks: int | None = None,
    text: NDArray[np.int32] | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> Comparison:
    """Compute what ``base`` holds with an idle engine; both see the same tokens.

    Args:
        n_chunks: how many chunks of the base to use at most; None uses all.
        text: tokens that the base must have been made of; None does not check.
        progress: told after each chunk how many are done, of how many, and the mean KL so far.

    Raises:
        LogitsBaseError: the base is damaged or has another vocabulary.
        UsageError: it is of another text than ``text``, or ``n_chunks`` is out of range.
        ContextLengthError: a chunk does not fit in the engine's context.
    """
    _check(engine, base, n_chunks)
    wanted = base.n_chunks if n_chunks is None else min(n_chunks, base.n_chunks)
    depths: list[NDArray[np.int64]] = []
    parts: list[RowDivergences] = []
    for i, chunk in enumerate(base.chunks()):
        if i == wanted:
            break
        if text is not None and not np.array_equal(
            text[chunk.start : chunk.start + len(chunk.tokens)], chunk.tokens
        ):
            raise UsageError(
                f"{base.path} was made of another text or with another tokenizer; leave the text "
                "out to use the base's own."
            )
        for rows, logits in row_logits(engine, chunk.tokens, chunk.positions):
            parts.append(chunk.compare(rows.start, logits))
            depths.append(chunk.positions[rows].astype(np.int64) + 1)
        if progress is not None:
            progress(i + 1, wanted, float(np.concatenate([p.kl for p in parts]).mean()))
    return summarise(np.concatenate(depths), join(parts))


def join(parts: Sequence[RowDivergences]) -> RowDivergences:
    """All rows of ``parts``, in their order."""

    def bound(name: str) -> NDArray[np.float64] | None:
        known = [getattr(p, name) for p in parts]
        return None if any(a is None for a in known) else np.concatenate(known)

    return RowDivergences(
        kl=np.concatenate([p.kl for p in parts]),
        lower=bound("lower"),
        upper=bound("upper"),
        variance=np.concatenate([p.variance for p in parts]),
        same_top=np.concatenate([p.same_top for p in parts]),
        losses=np.concatenate([p.losses for p in parts]),
        base_losses=np.concatenate([p.base_losses for p in parts]),
    )


def summarise(depths: NDArray[np.int64], rows: RowDivergences) -> Comparison:
    """Figures of rows that follow ``depths`` tokens each, int64 [n_rows]."""
    edges = depth_edges(int(depths.min()), int(depths.max()))
    ranges = [(depths >= low) & (depths < high) for low, high in pairwise(edges)]
    return Comparison(
        total=_figures(depths, rows, np.ones(len(depths), np.bool_)),
        by_depth=tuple(_figures(depths, rows, chosen) for chosen in ranges if chosen.any()),
    )


def depth_edges(lowest: int, highest: int) -> list[int]:
    """Where ranges of depths begin, and the end of the last: powers of two, or quarters of them."""
    edges = [1 << n for n in range(lowest.bit_length() - 1, highest.bit_length() + 1)]
    if len(edges) - 1 >= _FEW_OCTAVES:
        return edges
    return sorted({low + low * part // 4 for low in edges[:-1] for part in range(4)} | {edges[-1]})


def _figures(
    depths: NDArray[np.int64], rows: RowDivergences, chosen: NDArray[np.bool_]
) -> Divergence:
    kl = rows.kl[chosen]
    return Divergence(
        first_depth=int(depths[chosen].min()),
        last_depth=int(depths[chosen].max()),
        n_rows=len(kl),
        kl_mean=float(kl.mean()),
        kl_sampling_error=math.sqrt(float(rows.variance[chosen].sum())) / len(kl),
        kl_mean_lower=None if rows.lower is None else float(rows.lower[chosen].mean()),
        kl_mean_upper=None if rows.upper is None else float(rows.upper[chosen].mean()),
        kl_median=float(np.median(kl)),
        kl_p99=float(np.quantile(kl, 0.99)),
        kl_max=float(kl.max()),
        same_top=float(rows.same_top[chosen].mean()),
        perplexity=math.exp(float(rows.losses[chosen].mean())),
        base_perplexity=math.exp(float(rows.base_losses[chosen].mean())),
    )


def _check(engine: Engine, base: Base, n_chunks: int | None) -> None:
    if n_chunks is not None and n_chunks < 1:
        raise UsageError(f"The number of chunks must be at least 1, not {n_chunks}.")
    if base.vocab_size != engine.vocab_size:
        raise LogitsBaseError(
            f"{base.path} is of a model with {base.vocab_size} tokens of vocabulary, this one has "
            f"{engine.vocab_size}; compare models of one vocabulary."
        )
    longest, fits = base.longest_chunk, engine.runner.max_text_tokens
    if longest - 1 > fits:
        raise ContextLengthError(
            f"{base.path} has chunks of {longest} tokens but this model and cache hold {fits}; "
            "raise context_length or kv_cache_memory."
        )
