"""Greedy outputs are the exact computation's, wherever that one is not undecided itself."""

from __future__ import annotations

from typing import Any

from longbow_quarrel.llm import LLM
from longbow_quarrel.sampling import SamplingParams
from longbow_quarrel.validation.reference import Continuation
from longbow_quarrel.validation.results import Check, judged, skipped
from longbow_quarrel.validation.subject import Subject

NAME = "greedy outputs"


def check(subject: Subject) -> Check:
    gap = subject.bounds.clear_gap
    bound = (
        f"With every strategy the likeliest tokens are the exact computation's until its best two "
        f"are closer than {gap} logits, and all strategies give the same text."
    )
    if subject.data is None:
        return skipped(NAME, bound, "There is no reference for this model.")
    wanted = subject.data.reference.greedy
    complaints: list[str] = []
    rows: list[dict[str, Any]] = []
    texts: dict[str, list[list[int]]] = {}
    for strategy in subject.strategies:
        with subject.load(strategy) as llm:
            texts[strategy] = [_continue(llm, reference) for reference in wanted]
        compared = [_agreeing(t, w, gap) for t, w in zip(texts[strategy], wanted, strict=True)]
        wrong = [
            f"{strategy} leaves the exact text of {w.prompt!r} at token {n}."
            for (n, clear), w in zip(compared, wanted, strict=True)
            if clear
        ]
        complaints += wrong
        n_same = sum(n for n, _ in compared)
        rows.append(
            {
                "strategy": strategy,
                "prompts": len(wanted),
                "tokens alike": n_same,
                "of": sum(len(w.token_ids) for w in wanted),
                "wrong": len(wrong),
            }
        )
    first = next(iter(texts))
    complaints += [
        f"{strategy} generates other tokens than {first}."
        for strategy, text in texts.items()
        if text != texts[first]
    ]
    found = (
        f"{min(r['tokens alike'] for r in rows)} of {rows[0]['of']} tokens of "
        f"{len(wanted)} prompts are the exact ones."
    )
    return judged(NAME, bound, found, complaints, rows)


def _continue(llm: LLM, wanted: Continuation) -> list[int]:
    params = SamplingParams(max_tokens=len(wanted.token_ids), temperature=0)
    return llm.generate([list(wanted.prompt_token_ids)], params)[0].token_ids


def _agreeing(found: list[int], wanted: Continuation, gap: float) -> tuple[int, bool]:
    """How many tokens agree, and whether the first other one was a clear choice."""
    for i, token in enumerate(wanted.token_ids):
        if i >= len(found) or found[i] != token:
            return i, wanted.gaps[i] >= gap
    return len(wanted.token_ids), False
