"""What element types of the KV cache cost in quality: perplexity, and KL divergence from f16.

    python benchmarks/kv_types.py MODEL.gguf ... --text TEXT --json OUT.json --markdown OUT.md

The text is cut and scored as ``longbow-quarrel perplexity`` does it. All types of a model see the
same chunk side by side, so that no logits have to be stored.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from longbow_quarrel import EngineConfig, __version__
from longbow_quarrel.engine import Engine
from longbow_quarrel.evaluation.divergence import kl_divergence
from longbow_quarrel.evaluation.perplexity import scored_logits, text_tokens, token_losses

BASE = ("f16", "f16")
PAIRS = [
    BASE,
    ("bf16", "bf16"),
    ("q8_0", "q8_0"),
    ("q8_0", "q4_0"),
    ("q4_0", "q8_0"),
    ("q4_0", "q4_0"),
]


@dataclass(frozen=True)
class Row:
    """One model, depth and pair of types; change and KL are relative to f16."""

    model: str
    n_ctx: int
    n_scored: int
    k_type: str
    v_type: str
    kv_bytes_per_token: int
    perplexity: float
    change_percent: float
    kl_mean: float
    kl_p99: float
    same_top_percent: float


def main(argv: Sequence[str] | None = None) -> None:
    args = _arguments(argv)
    command = "python benchmarks/kv_types.py " + shlex.join(argv or sys.argv[1:])
    rows: list[Row] = []
    text = args.text.read_text(encoding="utf-8")
    for model in args.models:
        for n_ctx, n_chunks in zip(args.depths, args.chunks, strict=True):
            rows += measure(model, text, n_ctx, n_chunks, args.threads)
            print("\n".join(_table(rows[-len(PAIRS) :])), flush=True)
            _write(args, rows, command)  # each time: the whole takes a while


def _write(args: argparse.Namespace, rows: Sequence[Row], command: str) -> None:
    facts = {
        "command": command,
        "version": __version__,
        "machine": platform.machine(),
        "rows": [asdict(row) for row in rows],
    }
    if args.json is not None:
        args.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    if args.markdown is not None:
        args.markdown.write_text(_report(rows, command), encoding="utf-8")


def measure(model: Path, text: str, n_ctx: int, n_chunks: int, n_threads: int | None) -> list[Row]:
    """All pairs of types on the same chunks of ``text``."""
    engines = [
        Engine(
            model,
            EngineConfig(
                kv_type_k=k, kv_type_v=v, context_length=n_ctx, max_num_seqs=1, n_threads=n_threads
            ),
        )
        for k, v in PAIRS
    ]
    tokens = text_tokens(engines[0], text, n_ctx)
    if len(tokens) < n_chunks * n_ctx:
        raise SystemExit(f"The text has {len(tokens)} tokens, fewer than {n_chunks} x {n_ctx}.")
    losses: list[list[np.ndarray]] = [[] for _ in PAIRS]
    divergences: list[list[np.ndarray]] = [[] for _ in PAIRS]
    agreements: list[list[np.ndarray]] = [[] for _ in PAIRS]
    for i in range(n_chunks):
        chunk = tokens[i * n_ctx : (i + 1) * n_ctx]
        for parts in zip(*(scored_logits(e, chunk) for e in engines), strict=True):
            base = parts[0][0]
            for j, (logits, targets) in enumerate(parts):
                losses[j].append(token_losses(logits, targets))
                divergences[j].append(kl_divergence(base, logits))
                agreements[j].append(base.argmax(axis=1) == logits.argmax(axis=1))
    reference = math.exp(np.concatenate(losses[0]).mean())
    rows = []
    for j, (k, v) in enumerate(PAIRS):
        value = math.exp(np.concatenate(losses[j]).mean())
        divergence = np.concatenate(divergences[j])
        rows.append(
            Row(
                model=model.stem,
                n_ctx=n_ctx,
                n_scored=len(divergence),
                k_type=k,
                v_type=v,
                kv_bytes_per_token=engines[j].runner.kv_bytes_per_token,
                perplexity=value,
                change_percent=100 * (value / reference - 1),
                kl_mean=float(divergence.mean()),
                kl_p99=float(np.quantile(divergence, 0.99)),
                same_top_percent=100 * float(np.concatenate(agreements[j]).mean()),
            )
        )
    return rows


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL.gguf")
    parser.add_argument("--text", type=Path, required=True, help="a long text, UTF-8")
    parser.add_argument("--depths", type=int, nargs="+", default=[512, 2048, 8192])
    parser.add_argument("--chunks", type=int, nargs="+", default=[10, 3, 1], help="per depth")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    args = parser.parse_args(argv)
    if len(args.depths) != len(args.chunks):
        parser.error("--chunks needs a number for each of --depths")
    return args


def _table(rows: Sequence[Row]) -> list[str]:
    lines = [
        "| model | n_ctx | scored | K | V | bytes/token | perplexity | change | KL mean "
        "| KL 99 % | same top |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    return lines + [
        f"| {r.model} | {r.n_ctx} | {r.n_scored} | {r.k_type} | {r.v_type} "
        f"| {r.kv_bytes_per_token} | {r.perplexity:.4f} | {r.change_percent:+.3f} % "
        f"| {r.kl_mean:.2e} | {r.kl_p99:.2e} | {r.same_top_percent:.2f} % |"
        for r in rows
    ]


def _report(rows: Sequence[Row], command: str) -> str:
    worst = max(abs(r.change_percent) for r in rows if (r.k_type, r.v_type) == ("q8_0", "q8_0"))
    lines = [
        "# Element types of the KV cache",
        "",
        "Perplexity by llama-perplexity's method (the second half of each chunk of n_ctx tokens is",
        "scored), change and KL divergence (nats) relative to f16 for both K and V, and how often",
        "the likeliest token is the same. Written by",
        "",
        f"    {command}",
        "",
        f"q8_0 for both stays within {worst:.3f} % of the perplexity of f16.",
        "",
        *_table(rows),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
