"""The same bits of logits, whatever the strategy, chunks, batch, prefix and threads."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from longbow_quarrel.llm import LLM
from longbow_quarrel.model_runner import StepLogits
from longbow_quarrel.sampling import SamplingParams
from longbow_quarrel.scheduler import ScheduledChunk
from longbow_quarrel.validation import reference
from longbow_quarrel.validation.results import Check, judged
from longbow_quarrel.validation.subject import BASELINE_STRATEGY, Subject

NAME = "coherence"
BOUND = (
    "Logits of generated tokens have the same bits with every strategy, block size, prefill chunk "
    "and batch, from a cold and from a warm cache; on the CPU also for one thread, and whether a "
    "token was prefilled or decoded."
)

Digests = list[str]


def check(subject: Subject) -> Check:
    text = reference.text() if subject.data is None else subject.data.text
    with subject.load(BASELINE_STRATEGY) as llm:
        prompts = _prompts(llm, text, subject.effort.prompt_lengths)
        expected = _generate(llm, prompts, subject.effort.n_tokens)
        seen = {f"{BASELINE_STRATEGY}, again": _generate(llm, prompts, subject.effort.n_tokens)}
        on_cpu = llm.engine.runner.device.name == "cpu"
        if on_cpu:
            seen["prefilled as a whole"] = _prefilled(llm, prompts, subject.effort.n_tokens)
    for name, strategy, alone, changes in _variants(subject, on_cpu):
        with subject.load(strategy, **changes) as llm:
            groups = [[p] for p in prompts] if alone else [prompts]
            n = subject.effort.n_tokens
            seen[name] = [d for group in groups for d in _generate(llm, group, n)]
            if not alone and not changes:
                seen[f"{name}, warm"] = _generate(llm, prompts, n)
    rows: list[dict[str, Any]] = [
        {
            "variant": name,
            "prompts": len(prompts),
            "same bits": sum(a == b for a, b in zip(digests, expected, strict=True)),
        }
        for name, digests in seen.items()
    ]
    complaints = [
        f"{row['variant']}: {len(prompts) - row['same bits']} of {len(prompts)} texts have other "
        "bits."
        for row in rows
        if row["same bits"] != len(prompts)
    ]
    found = (
        f"{len(rows)} variants of {len(prompts)} prompts of {min(map(len, prompts))} to "
        f"{max(map(len, prompts))} tokens and {subject.effort.n_tokens} generated ones were "
        f"compared with {BASELINE_STRATEGY}."
    )
    return judged(NAME, BOUND, found, complaints, rows)


def _variants(subject: Subject, on_cpu: bool) -> Iterator[tuple[str, str, bool, dict[str, Any]]]:
    """Name, strategy, whether prompts run one by one, and what differs."""
    for strategy in subject.strategies:
        if strategy != BASELINE_STRATEGY:
            yield strategy, strategy, False, {}
        yield f"{strategy}, chunks of 33", strategy, False, {"max_num_batched_tokens": 33}
        yield f"{strategy}, one by one", strategy, True, {}
    for size in (8, 64):
        yield f"paged, blocks of {size}", "paged", False, {"block_size": size}
    if on_cpu:
        yield "one thread", BASELINE_STRATEGY, False, {"n_threads": 1}


def _prompts(llm: LLM, text: str, lengths: Sequence[int]) -> list[list[int]]:
    """Pieces of the text; the last two begin alike."""
    longest = llm.engine.max_prompt_tokens // 2
    ids = llm.tokenize(text)
    prompts = [ids[7 * i : 7 * i + min(n, longest)] for i, n in enumerate(lengths)]
    return [*prompts, prompts[-1][: len(prompts[-1]) * 2 // 3] + ids[:3]]


def _generate(llm: LLM, prompts: list[list[int]], n: int) -> Digests:
    """Of tokens and logits of each prompt's greedy text, computed side by side."""
    params = SamplingParams(max_tokens=n, temperature=0, ignore_eos=True)
    with _watched(llm) as rows:
        requests = [llm.engine.add(prompt, params)[0] for prompt in prompts]
        while any(r.finish_reason is None for r in requests):
            llm.engine.step()
    for request in requests:
        if request.error is not None:
            raise request.error
    return [_digest(list(r.output_ids), rows[id(r)]) for r in requests]


def _prefilled(llm: LLM, prompts: list[list[int]], n: int) -> Digests:
    """The same, with logits of the finished texts at once."""
    params = SamplingParams(max_tokens=n, temperature=0, ignore_eos=True)
    digests = []
    for prompt in prompts:
        ids = llm.generate([prompt], params)[0].token_ids
        rows = llm.logits(prompt + ids[:-1])[len(prompt) - 1 :]
        digests.append(_digest(ids, [row.tobytes() for row in rows]))
    return digests


def _digest(ids: Sequence[int], rows: Sequence[bytes]) -> str:
    digest = hashlib.sha256(np.array(ids, np.int32).tobytes())
    for row in rows:
        digest.update(row)
    return digest.hexdigest()


@contextmanager
def _watched(llm: LLM) -> Iterator[dict[int, list[bytes]]]:
    """Bytes of the logits that were sampled from, by the id of their request."""
    rows: dict[int, list[bytes]] = {}
    run = llm.engine.runner.run

    def watch(chunks: Sequence[ScheduledChunk]) -> StepLogits:
        sampling = [c.request for c in chunks if c.samples]  # the step moves what tells
        logits = run(chunks)
        for request, row in zip(sampling, logits, strict=True):
            rows.setdefault(id(request), []).append(row.tobytes())
        return logits

    llm.engine.runner.run = watch  # type: ignore[method-assign]
    try:
        yield rows
    finally:
        del llm.engine.runner.run
