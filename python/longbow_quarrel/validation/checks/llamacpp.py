"""Speed and quality beside llama.cpp: same file, same threads, turn about."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

from longbow_quarrel.benchmarking import StepBench, Workload
from longbow_quarrel.config import usable_cores
from longbow_quarrel.evaluation.comparison import Divergence, compare
from longbow_quarrel.evaluation.logits_base import LogitsBase
from longbow_quarrel.validation.checks.speed import loaded
from longbow_quarrel.validation.llamacpp import LlamaCpp, divergence_from_exact
from longbow_quarrel.validation.reference import TEXT, ReferenceData
from longbow_quarrel.validation.results import Check, judged, skipped
from longbow_quarrel.validation.subject import BASELINE_STRATEGY, Subject

NAME = "beside llama.cpp"
BOUND = (
    "The median speed of single texts is at least llama.cpp's, and the mean KL divergence from the "
    "exact predictions at most its."
)
_ROUNDS = 3


def check(subject: Subject) -> Check:
    if subject.llamacpp is None:
        return skipped(NAME, BOUND, "No --llamacpp FOLDER was given.")
    n_threads = subject.config.n_threads or usable_cores()
    theirs = LlamaCpp(subject.llamacpp, subject.path, n_threads)
    rows = _speeds(subject, theirs)
    complaints = [
        f"{r['test']} runs at {r['ratio']:.2f} times llama.cpp's speed."
        for r in rows
        if not r["ratio"] >= 1
    ]
    slowest = min(r["ratio"] for r in rows)
    found = f"At least {slowest:.2f} times as fast as llama.cpp in {len(rows)} workloads."
    facts: dict[str, Any] = {}
    if subject.data is not None:
        ours, other = _qualities(subject, theirs, subject.data)
        facts = {"kl_ours": ours.kl_mean, "kl_llamacpp": other.kl_mean}
        found += (
            f" Mean KL divergence from the exact predictions {ours.kl_mean:.2e} nats, llama.cpp's "
            f"{other.kl_mean:.2e}, over {other.n_rows} rows; same likeliest token "
            f"{ours.same_top:.2%} and {other.same_top:.2%}."
        )
        if not ours.kl_mean <= other.kl_mean:
            complaints.append("The divergence is larger than llama.cpp's.")
    return judged(NAME, BOUND, found, complaints, rows, facts)


def _speeds(subject: Subject, theirs: LlamaCpp) -> list[dict[str, Any]]:
    """Rounds alternate, so that a slow moment of the machine meets both."""
    works = [work for work in subject.effort.works if work.batch == 1]
    bench = StepBench(loaded(subject, BASELINE_STRATEGY, works))
    rows = []
    for work in works:
        subject.tell(f"{subject.name}, {work.label} beside llama.cpp")
        samples: list[tuple[float, float]] = []
        with bench.prepared(work) as batch:
            batch.run()
            for _ in range(_ROUNDS):
                samples.append((work.n_new / batch.run(), theirs.speed(work)))
        ours, other = (statistics.median(column) for column in zip(*samples, strict=True))
        rows.append(_cells(work, ours, other))
    return rows


def _cells(work: Workload, ours: float, other: float) -> dict[str, Any]:
    return {"test": work.label, "tokens/s": ours, "llama.cpp": other, "ratio": ours / other}


def _qualities(
    subject: Subject, theirs: LlamaCpp, data: ReferenceData
) -> tuple[Divergence, Divergence]:
    """Of the chunks that give the perplexity, which llama-perplexity can compute too."""
    subject.tell(f"{subject.name}, quality beside llama.cpp")
    exact = LogitsBase(data.base_path)
    n_ctx, n_chunks = data.reference.n_ctx, data.reference.n_chunks
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / TEXT
        text.write_text(data.text, encoding="utf-8")
        out = theirs.predictions(text, n_ctx, n_chunks, Path(folder) / "base")
        other = divergence_from_exact(exact, out)
    with subject.load(BASELINE_STRATEGY, context_length=exact.longest_chunk) as llm:
        ours = compare(llm.engine, exact, n_chunks=n_chunks)
    return ours.total, other
