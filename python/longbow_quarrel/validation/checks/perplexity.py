"""The perplexity is the exact one, and the same number with every strategy."""

from __future__ import annotations

from typing import Any

from longbow_quarrel.evaluation.perplexity import perplexity
from longbow_quarrel.validation.results import Check, judged, skipped
from longbow_quarrel.validation.subject import Subject

NAME = "perplexity"


def check(subject: Subject) -> Check:
    limit = subject.bounds.perplexity
    bound = (
        f"With every strategy the perplexity differs from the exact one by at most {limit:.2%}, "
        "and all strategies give the same number."
    )
    if subject.data is None:
        return skipped(NAME, bound, "There is no reference for this model.")
    reference = subject.data.reference
    rows: list[dict[str, Any]] = []
    for strategy in subject.strategies:
        with subject.load(strategy, context_length=reference.n_ctx) as llm:
            result = perplexity(
                llm.engine, subject.data.text, n_ctx=reference.n_ctx, n_chunks=reference.n_chunks
            )
        rows.append(
            {
                "strategy": strategy,
                "perplexity": result.perplexity,
                "exact": reference.perplexity,
                "difference": result.perplexity / reference.perplexity - 1,
                "scored": result.n_scored,
            }
        )
    complaints = [
        f"{r['strategy']} has {r['perplexity']:.4f}, {r['difference']:+.3%} from the exact "
        f"{r['exact']:.4f}."
        for r in rows
        if not abs(r["difference"]) <= limit
    ]
    complaints += [
        f"{r['strategy']} gives another number than {rows[0]['strategy']}."
        for r in rows
        if r["perplexity"] != rows[0]["perplexity"]
    ]
    worst = max(rows, key=lambda r: abs(r["difference"]))
    found = (
        f"{worst['perplexity']:.4f} ({reference.n_chunks} chunks of {reference.n_ctx} tokens), "
        f"{worst['difference']:+.4%} from the exact {reference.perplexity:.4f}."
    )
    return judged(NAME, bound, found, complaints, rows)
