"""KL divergence from the exact predictions, at every depth."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from longbow_quarrel.evaluation.comparison import Comparison, compare, open_base
from longbow_quarrel.validation.results import Check, judged, skipped
from longbow_quarrel.validation.subject import Subject

NAME = "KL divergence by depth"


def check(subject: Subject) -> Check:
    limits = subject.bounds
    bound = (
        f"With every strategy the mean KL divergence from the exact predictions is at most "
        f"{limits.kl_mean:g} nats over all rows and {limits.kl_mean_at_depth:g} at each depth, and "
        f"at least {limits.same_top:.1%} of the likeliest tokens are the exact ones."
    )
    if subject.data is None:
        return skipped(NAME, bound, "There is no reference for this model.")
    base = open_base(subject.data.base_path)
    complaints: list[str] = []
    rows: list[dict[str, Any]] = []
    totals = []
    by_depth: dict[str, list[dict[str, Any]]] = {}
    for strategy in subject.strategies:
        with subject.load(strategy, context_length=base.longest_chunk) as llm:
            found = compare(llm.engine, base)
        complaints += _complaints(strategy, found, subject)
        totals.append(found.total)
        by_depth[strategy] = [asdict(part) for part in found.by_depth]
        rows += [
            {
                "strategy": strategy,
                "depth": f"{part.first_depth} to {part.last_depth}",
                "rows": part.n_rows,
                "KL mean": part.kl_mean,
                "KL 99 %": part.kl_p99,
                "KL max": part.kl_max,
                "same top": part.same_top,
            }
            for part in (*found.by_depth, found.total)
        ]
    worst = max(totals, key=lambda total: total.kl_mean)
    text = (
        f"Mean {worst.kl_mean:.2e} nats over {worst.n_rows} rows (sampling error "
        f"{worst.kl_sampling_error:.0e}), maximum {worst.kl_max:.2e}, same likeliest token "
        f"{worst.same_top:.2%}."
    )
    return judged(NAME, bound, text, complaints, rows, {"by_depth": by_depth})


def _complaints(strategy: str, found: Comparison, subject: Subject) -> list[str]:
    limits = subject.bounds
    complaints = []
    if not found.total.kl_mean <= limits.kl_mean:
        complaints.append(f"{strategy} has a mean of {found.total.kl_mean:.3g} nats.")
    if not found.total.same_top >= limits.same_top:
        complaints.append(f"{strategy} finds {found.total.same_top:.2%} of the likeliest tokens.")
    complaints += [
        f"{strategy} has a mean of {part.kl_mean:.3g} nats at depths {part.first_depth} to "
        f"{part.last_depth}."
        for part in found.by_depth
        if not part.kl_mean <= limits.kl_mean_at_depth
    ]
    return complaints
