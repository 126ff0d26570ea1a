"""The same bits, whatever is done to the computation (promise 1 of the design)."""

from __future__ import annotations

import numpy as np
import pytest

from longbow_quarrel import LLM, EngineConfig, SamplingParams, _core

TINY = ["gemma3", "k-quants", "llama3", "mistral"]
REAL = ["smollm2_path", "gemma3_path"]


def _ids(llm: LLM, n: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(5, llm.engine.vocab_size - 5, n).tolist()


def _load(path, **config) -> LLM:
    return LLM(path, config=EngineConfig(**({"n_threads": 2} | config)))


def _last_logits(llm: LLM, ids: list[int]) -> bytes:
    """Logits after the prompt, as generation computes them: chunked by the token budget."""
    captured: list[bytes] = []
    run = llm.engine.runner.run
    llm.engine.runner.run = lambda chunks: _capture(run(chunks), captured)
    try:
        llm.generate([ids], SamplingParams(max_tokens=1, temperature=0))
    finally:
        del llm.engine.runner.run
    return captured[-1]


def _capture(logits: np.ndarray, captured: list[bytes]) -> np.ndarray:
    if len(logits):
        captured.append(logits.tobytes())
    return logits


@pytest.mark.parametrize("name", TINY)
def test_threads_do_not_matter(name, tiny_model_path):
    results = []
    for n_threads in (1, 2, 3):
        llm = _load(tiny_model_path(name), n_threads=n_threads)
        results.append(llm.logits(_ids(llm, 90)).tobytes())
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("name", TINY)
def test_instruction_sets_do_not_matter(name, tiny_model_path):
    results = {}
    for isa in _core.available_isas():
        llm = _load(tiny_model_path(name), cpu_isa=isa)
        results[isa] = llm.logits(_ids(llm, 60)).tobytes()
    assert "portable" in results
    assert len(set(results.values())) == 1, list(results)


@pytest.mark.parametrize("name", TINY)
def test_decode_equals_prefill_in_any_chunks(name, tiny_model_path):
    results = []
    for chunk in (1, 7, 64, 512):
        llm = _load(tiny_model_path(name), max_num_batched_tokens=chunk)
        results.append(llm.logits(_ids(llm, 100)).tobytes())
    assert len(set(results)) == 1


@pytest.mark.parametrize("kv_type", ["f16", "f32"])
@pytest.mark.parametrize("block_size", [16, 64, 256])
def test_block_size_does_not_matter(block_size, kv_type, tiny_model_path):
    config = {"kv_type_k": kv_type, "kv_type_v": kv_type}
    base = _load(tiny_model_path("gemma3"), **config)
    other = _load(tiny_model_path("gemma3"), block_size=block_size, **config)
    ids = _ids(base, 150)
    assert base.logits(ids).tobytes() == other.logits(ids).tobytes()


@pytest.mark.parametrize("name", ["gemma3", "llama3"])
@pytest.mark.parametrize("block_size", [16, 64])
def test_strategies_do_not_matter(name, block_size, tiny_llm):
    greedy = SamplingParams(max_tokens=40, temperature=0, ignore_eos=True, logprobs=5)
    contiguous = tiny_llm(name)
    prompts = [_ids(contiguous, 5 + 9 * i, seed=i) for i in range(12)]
    expected = [(o.token_ids, o.logprobs) for o in contiguous.generate(prompts, greedy)]
    paged = tiny_llm(name, cache="paged", block_size=block_size)
    for _ in range(2):  # the second time from cached blocks
        outputs = paged.generate(prompts, greedy)
        assert [(o.token_ids, o.logprobs) for o in outputs] == expected
    assert outputs[-1].cached_tokens > 0
    paged.engine.runner.cache.check_invariants()


@pytest.mark.parametrize("name", ["gemma3", "llama3"])
def test_preemption_does_not_matter(name, tiny_llm):
    greedy = SamplingParams(max_tokens=40, temperature=0, ignore_eos=True, logprobs=5)
    roomy = tiny_llm(name)
    prompts = [_ids(roomy, 5 + 9 * i, seed=i) for i in range(12)]
    expected = [(o.token_ids, o.logprobs) for o in roomy.generate(prompts, greedy)]
    memory = roomy.engine.runner.kv_bytes_per_token * 16 * 20
    tight = tiny_llm(name, cache="paged", kv_cache_memory=memory, max_num_batched_tokens=40)
    outputs = tight.generate(prompts, greedy)
    assert tight.engine.scheduler.n_preemptions > 0
    assert [(o.token_ids, o.logprobs) for o in outputs] == expected
    assert tight.stats()["cache"]["n_used_blocks"] == 0
    tight.engine.runner.cache.check_invariants()


@pytest.mark.parametrize("name", ["gemma3", "mistral"])
def test_strangers_in_the_batch_do_not_matter(name, tiny_llm):
    greedy = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True, logprobs=5)
    llm = tiny_llm(name, max_num_seqs=16, max_num_batched_tokens=48, prefix_caching=False)
    prompts = [_ids(llm, 3 + 11 * i, seed=i) for i in range(16)]
    together = llm.generate(prompts, greedy)
    for prompt, out in zip(prompts, together, strict=True):
        [alone] = llm.generate([prompt], greedy)
        assert (alone.token_ids, alone.logprobs) == (out.token_ids, out.logprobs)


@pytest.mark.parametrize("name", ["gemma3", "llama3"])
def test_warm_equals_cold(name, tiny_llm):
    greedy = SamplingParams(max_tokens=20, temperature=0, ignore_eos=True, logprobs=5)
    warm, cold = tiny_llm(name), tiny_llm(name, prefix_caching=False)
    prompt = _ids(warm, 70)
    [first] = warm.generate([prompt], greedy)
    turn = prompt + first.token_ids + _ids(warm, 9, seed=1)
    [second], [reference] = warm.generate([turn], greedy), cold.generate([turn], greedy)
    # The last generated token was never computed, so it is not in the cache.
    assert second.cached_tokens == len(prompt) + len(first.token_ids) - 1
    assert (reference.cached_tokens, reference.miss_reason) == (0, "disabled")
    assert (second.token_ids, second.logprobs) == (reference.token_ids, reference.logprobs)


@pytest.mark.parametrize("path", REAL)
def test_real_models_give_the_same_bits(path, request):
    path = request.getfixturevalue(path)
    results = []
    for config in (
        {"max_num_batched_tokens": 512},
        {"max_num_batched_tokens": 64, "n_threads": 1},
        {"max_num_batched_tokens": 7, "n_threads": 3},
        {"max_num_batched_tokens": 1},
    ):
        llm = _load(path, **config)
        results.append(_last_logits(llm, _ids(llm, 40)))
    assert len(set(results)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("path", REAL)
def test_real_models_give_the_same_bits_far_from_the_start(path, request):
    """600 tokens reach beyond gemma's local window of 512."""
    path = request.getfixturevalue(path)
    results = []
    for chunk, n_threads in ((512, 1), (512, 2), (512, 3), (64, 2), (7, 2), (1, 2)):
        llm = _load(path, max_num_batched_tokens=chunk, n_threads=n_threads)
        results.append(_last_logits(llm, _ids(llm, 600)))
    assert len(set(results)) == 1
