"""The same logits, byte for byte, whichever strategy holds the cache (promise 1 of the design).

Tiny models in the default run, real ones and the Metal device under ``slow``. On Metal decode and
prefill may differ in bits, so what computes generated tokens again as a prompt is the CPU's alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from longbow_quarrel import LLM, EngineConfig, SamplingParams

TinyLLM = Callable[..., LLM]
Run = list[tuple[list[int], bytes]]

EVERY_DEVICE = pytest.mark.parametrize(
    "device_name", ["cpu", pytest.param("metal", marks=pytest.mark.slow)], indirect=True
)
CPU = pytest.mark.parametrize("device_name", ["cpu"], indirect=True)


@pytest.fixture
def tiny_llm(device_name: str, tiny_model_path: Callable[[str], Path]) -> TinyLLM:
    def load(name: str, **config: Any) -> LLM:
        settings = {"device": device_name, "n_threads": 2} | config
        return LLM(tiny_model_path(name), config=EngineConfig(**settings))

    return load


STRATEGIES = {
    "paged-8": {"cache": "paged", "block_size": 8},
    "paged-16": {"cache": "paged", "block_size": 16, "max_num_batched_tokens": 200},
    "paged-64": {"cache": "paged", "block_size": 64},
    "sliding_window": {"cache": "sliding_window", "max_num_batched_tokens": 333},
}
QUANTIZED = {"kv_type_k": "q8_0", "kv_type_v": "q4_0"}


def random_ids(llm: LLM, n: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(5, llm.engine.vocab_size - 5, n).tolist()


def greedy(llm: LLM, prompts: list[list[int]], n: int) -> Run:
    """``n`` token ids for each prompt, and the logits that they were taken from, as bytes."""
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
        requests = [llm.engine.add(prompt, params)[0] for prompt in prompts]
        while any(r.finish_reason is None for r in requests):
            llm.engine.step()
    finally:
        del llm.engine.runner.run
    for request in requests:
        assert request.error is None, request.error
    llm.engine.runner.cache.check_invariants()
    assert llm.stats()["cache"]["n_used_blocks"] == 0
    return [(list(r.output_ids), b"".join(logits[id(r)])) for r in requests]


@EVERY_DEVICE
@pytest.mark.parametrize("name", ["gemma3", "llama3", "qwen3"])
@pytest.mark.parametrize("kv_types", [{}, QUANTIZED], ids=["f16", "quantized"])
def test_strategies_agree(name: str, kv_types: dict[str, str], tiny_llm: TinyLLM) -> None:
    baseline = tiny_llm(name, **kv_types)
    prompts = [random_ids(baseline, n, seed=n) for n in (1, 2, 16, 17, 250)]
    expected = greedy(baseline, prompts, 24)
    for strategy, config in STRATEGIES.items():
        llm = tiny_llm(name, **config, **kv_types)
        assert greedy(llm, prompts, 24) == expected, strategy
        assert greedy(llm, prompts, 24) == expected, f"{strategy}, warm"


@EVERY_DEVICE
@pytest.mark.parametrize("name", ["gemma3", "llama3"])
@pytest.mark.parametrize("sinks", [0, 4, 17])
@pytest.mark.parametrize("window", [1, 20, 33, 100])
def test_a_narrow_window_is_the_baseline_with_the_same_mask(
    name: str, window: int, sinks: int, tiny_llm: TinyLLM
) -> None:
    mask = {"window": window, "sinks": sinks}
    baseline = tiny_llm(name, **mask)
    prompts = [random_ids(baseline, n, seed=n) for n in (1, 30, 150)]
    expected = greedy(baseline, prompts, 16)
    assert expected != greedy(tiny_llm(name), prompts, 16)
    for config in (
        {"cache": "sliding_window"},
        {"cache": "sliding_window", "block_size": 8, "max_num_batched_tokens": 19},
        {"cache": "paged", "max_num_batched_tokens": 19},
    ):
        assert greedy(tiny_llm(name, **mask, **config), prompts, 16) == expected, config


@CPU
@pytest.mark.parametrize("name", ["gemma3", "llama3"])
@pytest.mark.parametrize("strategy", ["contiguous", *STRATEGIES])
def test_a_warm_turn_equals_a_cold_one(name: str, strategy: str, tiny_llm: TinyLLM) -> None:
    config = STRATEGIES.get(strategy, {})
    warm, cold = tiny_llm(name, **config), tiny_llm(name, prefix_caching=False)
    prompt = random_ids(warm, 130)
    [(answer, _)] = greedy(warm, [prompt], 10)
    turn = prompt + answer + random_ids(warm, 21, seed=1)
    before = warm.stats()["cache"]["prefix_hit_tokens"]
    assert greedy(warm, [turn], 20) == greedy(cold, [turn], 20)
    assert warm.stats()["cache"]["prefix_hit_tokens"] > before


@CPU
@pytest.mark.parametrize("strategy", ["paged-8", "sliding_window"])
def test_preemption_leaves_no_trace(strategy: str, tiny_llm: TinyLLM) -> None:
    roomy = tiny_llm("llama3", **QUANTIZED)
    prompts = [random_ids(roomy, 40 + 9 * i, seed=i) for i in range(8)]
    memory = roomy.engine.runner.kv_bytes_per_token * 300
    tight = tiny_llm("llama3", **STRATEGIES[strategy], **QUANTIZED, kv_cache_memory=memory)
    assert greedy(tight, prompts, 40) == greedy(roomy, prompts, 40)
    assert tight.engine.scheduler.n_preemptions > 0


# ------------------------------------------------------------------------------ real models

# COHERENCE_FULL=1 gives every strategy every prompt: minutes instead of seconds.
REAL_PROMPTS = (1, 17, 700, 3000)
TAKES_LONGEST = ("paged-8", "sliding_window")


class RealModel:
    """Loads a model in many ways; ``expected`` is what the baseline gives for ``prompts``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        baseline = self.load(prefix_caching=False)
        self.prompts = [random_ids(baseline, n, seed=n) for n in REAL_PROMPTS]
        self.expected = greedy(baseline, self.prompts, 64)

    def load(self, **config: object) -> LLM:
        return LLM(self._path, config=EngineConfig(**({"n_threads": 2} | config)))


@pytest.fixture(scope="module", params=["smollm2_path", "gemma3_path"])
def real_model(request: pytest.FixtureRequest) -> RealModel:
    return RealModel(request.getfixturevalue(request.param))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_real_models_agree_on_every_strategy(real_model: RealModel, strategy: str) -> None:
    llm = real_model.load(**STRATEGIES[strategy])
    n = 4 if strategy in TAKES_LONGEST or os.environ.get("COHERENCE_FULL") else 3
    assert greedy(llm, real_model.prompts[:n], 64) == real_model.expected[:n]
    if strategy == "paged-8":  # warm, the longest prompt is not computed again
        assert greedy(llm, real_model.prompts[3:], 64) == real_model.expected[3:]
        assert llm.stats()["cache"]["prefix_hit_tokens"] > 2900


@pytest.mark.slow
def test_a_real_chat_with_strangers_and_preemptions(real_model: RealModel) -> None:
    """Alone = among 15 strangers, in a cache too small for all of them; then a second turn."""
    prompt, (answer, logits) = real_model.prompts[2], real_model.expected[2]
    roomy = real_model.load(prefix_caching=False)
    tokens = 1400
    memory = roomy.engine.runner.kv_bytes_per_token * tokens
    llm = real_model.load(cache="paged", kv_cache_memory=memory, max_num_batched_tokens=190)
    strangers = [random_ids(llm, 5 + 6 * i, seed=100 + i) for i in range(15)]
    together = greedy(llm, [*strangers, prompt], 64)
    assert together[-1] == (answer, logits)
    assert llm.engine.scheduler.n_preemptions > 0
    turn = prompt + answer + random_ids(llm, 40, seed=1)
    assert greedy(llm, [turn], 16) == greedy(roomy, [turn], 16)


@pytest.mark.slow
def test_a_narrow_window_on_real_models(real_model: RealModel) -> None:
    mask = {"window": 300, "sinks": 4}
    prompts = real_model.prompts[:3]
    expected = greedy(real_model.load(**mask), prompts, 64)
    llm = real_model.load(**mask, cache="sliding_window", max_num_batched_tokens=400)
    assert greedy(llm, prompts, 64) == expected
    assert expected[:2] == real_model.expected[:2]
    assert expected[2] != real_model.expected[2]
