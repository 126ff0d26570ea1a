"""llama.cpp's own programs, run beside ours."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np

from longbow_quarrel.benchmarking import Workload
from longbow_quarrel.errors import UsageError
from longbow_quarrel.evaluation.compact import divergences_from_log_probs
from longbow_quarrel.evaluation.comparison import Divergence, join, summarise
from longbow_quarrel.evaluation.llama_base import LlamaBase, grid, log_probs
from longbow_quarrel.evaluation.logits_base import LogitsBase

_NEEDED = ("llama-bench", "llama-perplexity")
_LIMIT_SECONDS = 600


class LlamaCpp:
    """Binaries in one folder, for one model.

    Raises:
        UsageError: one of them lacks or fails.
    """

    def __init__(self, folder: Path, model: Path, n_threads: int) -> None:
        for name in _NEEDED:
            if not (folder / name).is_file():
                raise UsageError(
                    f"{folder} has no {name}; give the folder of llama.cpp's binaries."
                )
        self._folder = folder
        self._common = ("-m", str(model), "-t", str(n_threads))

    def speed(self, work: Workload) -> float:
        """Tokens per second of one round of a workload of a single text."""
        counts = ("-p", str(work.n_prompt), "-n", str(work.n_gen), "-d", str(work.depth))
        out = self._run("llama-bench", *counts, "-r", "1", "-o", "json")
        try:
            return float(json.loads(out)[0]["avg_ts"])
        except (ValueError, LookupError, TypeError):
            raise UsageError("llama-bench printed something else than its JSON.") from None

    def predictions(self, text: Path, n_ctx: int, n_chunks: int, out: Path) -> LlamaBase:
        """What llama-perplexity keeps of a text."""
        self._run(
            "llama-perplexity",
            *("-f", str(text), "-c", str(n_ctx), "--chunks", str(n_chunks)),
            *("--kl-divergence-base", str(out)),
        )
        return LlamaBase(out)

    def _run(self, name: str, *arguments: str) -> str:
        command = [str(self._folder / name), *self._common, *arguments]
        try:
            done = subprocess.run(
                command,
                check=True,
                capture_output=True,
                text=True,
                errors="replace",
                stdin=subprocess.DEVNULL,
                timeout=_LIMIT_SECONDS,
            )
        except subprocess.CalledProcessError as e:
            lines = [line.strip() for line in e.stderr.splitlines() if line.strip()]
            last = lines[-1].rstrip(".") if lines else f"exit code {e.returncode}"
            raise UsageError(f"{name} failed: {last}.") from None
        except (OSError, subprocess.TimeoutExpired) as e:
            raise UsageError(f"{name} cannot be run: {e}.") from None
        return done.stdout


def divergence_from_exact(exact: LogitsBase, theirs: LlamaBase) -> Divergence:
    """KL(exact || llama.cpp) of the rows that both files have.

    Raises:
        UsageError: they are of other tokens.
    """
    found = {chunk.start: chunk for chunk in theirs.chunks()}
    parts, depths = [], []
    for chunk in exact.chunks():
        other = found.get(chunk.start)
        if other is None or len(chunk.tokens) != len(other.tokens):
            continue  # the long chunk
        if not np.array_equal(chunk.tokens[1:], other.tokens[1:]):
            raise UsageError("llama-perplexity cut the text into other tokens.")
        rows = other.rows[chunk.positions - int(other.positions[0])]
        log_q = log_probs(rows, exact.vocab_size).astype(np.float64)
        half_step = grid(rows)[0].astype(np.float64) / 2
        following = chunk.tokens[chunk.positions + 1]
        parts.append(divergences_from_log_probs(chunk.rows, log_q, following, half_step))
        depths.append(chunk.positions.astype(np.int64) + 1)
    return summarise(np.concatenate(depths), join(parts)).total
