"""``perplexity``: how well a model predicts a text, and how far from another's predictions."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longbow_quarrel.cli import loading, progress
from longbow_quarrel.cli.options import Flags, configured
from longbow_quarrel.cli.values import read_text
from longbow_quarrel.config import EngineConfig, SourceConfig
from longbow_quarrel.errors import UsageError

if TYPE_CHECKING:
    from longbow_quarrel import LLM
    from longbow_quarrel.evaluation.comparison import Base, Divergence

_CHUNK = 512  # tokens; what published figures use


@configured(SourceConfig, EngineConfig)
def perplexity(
    flags: Flags,
    file: Annotated[
        Path | None, typer.Option("-f", "--file", metavar="FILE", help="The text, in UTF-8.")
    ] = None,
    chunks: Annotated[
        int | None, typer.Option("--chunks", metavar="N", help="Chunks to use; all if unset.")
    ] = None,
    logits_out: Annotated[
        Path | None,
        typer.Option("--logits-out", metavar="FILE", help="Keep predictions for --against."),
    ] = None,
    logits_chunks: Annotated[
        int | None,
        typer.Option(
            "--logits-chunks",
            metavar="N",
            help="Chunks whose predictions are kept, spread evenly. [default: 64]",
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            "--against",
            metavar="FILE",
            help="KL divergence from predictions of --logits-out, or of llama-perplexity's "
            "--kl-divergence-base; -f may be left out.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure a model's perplexity on a text, by llama-perplexity's method.

    -c is the length of a chunk in tokens (512 if unset); the second half of each chunk is scored.
    """
    for name, value in (("--chunks", chunks), ("--logits-chunks", logits_chunks)):
        if value is not None and value < 1:
            raise UsageError(f"{name} must be at least 1, not {value}.")
    if logits_chunks is not None and logits_out is None:
        raise UsageError("--logits-chunks needs --logits-out FILE.")
    if against is not None and logits_out is not None:
        raise UsageError("--logits-out and --against cannot be combined; run one after the other.")
    text = None if file is None else read_text(file)
    if against is not None:
        _against(flags, against, text, chunks, as_json)
    elif text is None:
        raise UsageError("perplexity needs a text; give one with -f FILE.")
    else:
        _measure(flags, text, chunks, logits_out, logits_chunks, as_json)


def _measure(
    flags: Flags,
    text: str,
    chunks: int | None,
    logits_out: Path | None,
    logits_chunks: int | None,
    as_json: bool,
) -> None:
    config = flags.load(EngineConfig)
    if config.context_length is None:
        config = flags.load(EngineConfig, context_length=_CHUNK)
    llm = loading.load(flags.load(SourceConfig), config)

    from longbow_quarrel.evaluation.perplexity import perplexity as measure

    n_ctx = llm.engine.runner.context_length
    with _progress("perplexity", ".4f") as told:
        if logits_out is None:
            result = measure(llm.engine, text, n_ctx=n_ctx, n_chunks=chunks, progress=told)
        else:
            from longbow_quarrel.evaluation import recording

            with recording.Recorder(
                logits_out,
                vocab_size=llm.engine.vocab_size,
                model=llm.path.name,
                made_by=_made_by(llm),
                n_chunks=logits_chunks or recording.CHUNKS,
            ) as recorder:
                result = measure(
                    llm.engine,
                    text,
                    n_ctx=n_ctx,
                    n_chunks=chunks,
                    progress=told,
                    sink=recorder,
                )
    if as_json:
        speed = {"tokens_per_second": result.tokens_per_second}
        print(json.dumps({"model": str(llm.path), **dataclasses.asdict(result), **speed}))
        return
    print(
        f"perplexity {result.perplexity:.4f} +/- {result.standard_error:.4f} "
        f"({result.n_chunks} chunks of {result.n_ctx} tokens, {result.n_scored} scored; "
        f"{result.seconds:.1f} s, {result.tokens_per_second:.1f} tokens/s)"
    )


def _made_by(llm: LLM) -> str:
    from longbow_quarrel import __version__

    config = llm.config
    return f"longbow-quarrel {__version__}, K {config.kv_type_k}, V {config.kv_type_v}"


def _against(flags: Flags, path: Path, text: str | None, chunks: int | None, as_json: bool) -> None:
    from longbow_quarrel.evaluation import comparison
    from longbow_quarrel.evaluation.perplexity import text_tokens

    base = comparison.open_base(path)
    config = flags.load(EngineConfig)
    if config.context_length is None:
        config = flags.load(EngineConfig, context_length=base.longest_chunk)
    elif base.n_ctx not in (0, config.context_length):
        raise UsageError(
            f"{path} has chunks of {base.n_ctx} tokens, not {config.context_length}; leave -c out."
        )
    llm = loading.load(flags.load(SourceConfig), config)
    tokens = None if text is None else text_tokens(llm.engine, text, base.longest_chunk)
    with _progress("KL divergence", ".3g") as told:
        result = comparison.compare(llm.engine, base, n_chunks=chunks, text=tokens, progress=told)
    if as_json:
        facts = {
            "model": str(llm.path),
            "against": {"path": str(path), **base.describe()},
            **dataclasses.asdict(result.total),
            "by_depth": [dataclasses.asdict(part) for part in result.by_depth],
        }
        print(json.dumps(facts))
        return
    _print(base, result.total, result.by_depth)


def _print(base: Base, total: Divergence, by_depth: tuple[Divergence, ...]) -> None:
    print(
        f"KL divergence from {base.path.name} {total.kl_mean:.4g} nats, same top token "
        f"{100 * total.same_top:.2f} %, perplexity {total.perplexity:.4f} "
        f"(of the base {total.base_perplexity:.4f})"
    )
    if total.kl_mean_lower is not None and total.kl_mean_upper is not None:
        print(
            f"The mean has a sampling error of {total.kl_sampling_error:.2g} and lies between "
            f"{total.kl_mean_lower:.4g} and {total.kl_mean_upper:.4g} for certain."
        )
    heads = ("depth", "rows", "KL mean", "median", "99 %", "max", "same top", "perplexity")
    lines: list[tuple[Any, ...]] = [heads]
    for part in (*by_depth, total):
        lines.append(
            (
                f"{part.first_depth}-{part.last_depth}",
                part.n_rows,
                *(f"{x:.3g}" for x in (part.kl_mean, part.kl_median, part.kl_p99, part.kl_max)),
                f"{100 * part.same_top:.2f} %",
                f"{part.perplexity:.4f}",
            )
        )
    widths = [max(len(str(line[i])) for line in lines) for i in range(len(heads))]
    for line in lines:
        print("  ".join(str(c).rjust(w) for c, w in zip(line, widths, strict=True)))


@contextmanager
def _progress(name: str, form: str) -> Iterator[Callable[[int, int, float], None]]:
    with progress.bar(name) as tell:
        yield lambda done, total, value: tell(done, total, f"{value:{form}}")
