"""The same logits, byte for byte, whichever strategy holds the cache."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from longbow_quarrel import LLM, SamplingParams

TinyLLM = Callable[..., LLM]
Run = list[tuple[list[int], bytes]]


def random_ids(llm: LLM, n: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(5, llm.engine.vocab_size - 5, n).tolist()


def greedy(llm: LLM, prompts: list[list[int]], n: int) -> Run:
    """Token ids, and the logits that each was taken from, as bytes."""
    logits: dict[int, list[bytes]] = {}
    run = llm.engine.runner.run

    def watched(chunks):
        sampling = [c for c in chunks if c.samples]  # the step moves what tells
        rows = run(chunks)
        for chunk, row in zip(sampling, rows, strict=True):
            logits.setdefault(id(chunk.request), []).append(row.tobytes())
        return rows

    llm.engine.runner.run = watched  # type: ignore[method-assign]
    try:
        params = SamplingParams(max_tokens=n, temperature=0, ignore_eos=True)
        requests = [llm.engine.add(prompt, params) for prompt in prompts]
        while any(r.finish_reason is None for r in requests):
            llm.engine.step()
    finally:
        del llm.engine.runner.run
    for request in requests:
        assert request.error is None, request.error
    llm.engine.runner.cache.check_invariants()
    return [(list(r.output_ids), b"".join(logits[id(r)])) for r in requests]


STRATEGIES = {
    "paged-32": {"cache": "paged", "block_size": 32},
    "paged-16": {"cache": "paged", "block_size": 16},
    "paged-64": {"cache": "paged", "block_size": 64},
    "sliding_window": {"cache": "sliding_window"},
}


@pytest.mark.parametrize("name", ["gemma3", "llama3"])
@pytest.mark.parametrize("sinks", [0, 4, 17])
@pytest.mark.parametrize("window", [1, 20, 33, 100])
def test_a_narrow_window_is_the_baseline_with_the_same_mask(
    name: str, window: int, sinks: int, tiny_llm: TinyLLM
) -> None:
    baseline = tiny_llm(name, window=window, sinks=sinks)
    prompts = [random_ids(baseline, n, seed=n) for n in (1, 30, 150)]
    expected = greedy(baseline, prompts, 16)
    assert expected != greedy(tiny_llm(name), prompts, 16)
    for config in ({"cache": "sliding_window"}, {"cache": "paged"}):
        for chunk in (512, 19):
            llm = tiny_llm(name, window=window, sinks=sinks, max_num_batched_tokens=chunk, **config)
            assert greedy(llm, prompts, 16) == expected, (config, chunk)
