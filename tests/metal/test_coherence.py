"""The same bits on Metal, whatever is done to the computation (promise 1 of the design).

Decode and prefill may differ from each other here: see StepInputs::n_decodes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from longbow_quarrel import LLM, SamplingParams

Load = Callable[..., LLM]
GREEDY = SamplingParams(max_tokens=10, temperature=0, ignore_eos=True, logprobs=5)
NAMES = ["gemma3", "llama3"]


def _ids(llm: LLM, n: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(5, llm.engine.vocab_size - 5, n).tolist()


def _texts(llm: LLM, prompts: list[list[int]]) -> list[Any]:
    return [(o.token_ids, o.logprobs) for o in llm.generate(prompts, GREEDY)]


@pytest.mark.parametrize("name", NAMES)
def test_chunks_do_not_matter(name: str, metal_llm: Load) -> None:
    """Also chunks of one token: a short chunk is no decode."""
    logits, texts = [], []
    for chunk in (1, 7, 33, 128):
        llm = metal_llm(name, max_num_batched_tokens=chunk)
        logits.append(llm.logits(_ids(llm, 70)).tobytes())
        texts.append(_texts(llm, [_ids(llm, 41, seed=1)]))
    assert len(set(logits)) == 1
    assert texts == texts[:1] * 4


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("block_size", [16, 64])
def test_strategies_do_not_matter(name: str, block_size: int, metal_llm: Load) -> None:
    contiguous = metal_llm(name)
    prompts = [_ids(contiguous, 5 + 13 * i, seed=i) for i in range(6)]
    expected = _texts(contiguous, prompts)
    paged = metal_llm(name, cache="paged", block_size=block_size)
    assert _texts(paged, prompts) == expected
    assert _texts(paged, prompts) == expected  # from cached blocks
    wide = metal_llm(name, cache="sliding_window", window=512, block_size=block_size)
    assert _texts(wide, prompts) == expected


def test_a_window_is_a_mask(metal_llm: Load) -> None:
    """Blocks that were let go are not missed."""
    windowed = metal_llm("llama3", cache="sliding_window", window=24, sinks=4)
    masked = metal_llm("llama3", window=24, sinks=4)
    prompts = [_ids(masked, n, seed=n) for n in (20, 90)]
    assert _texts(windowed, prompts) == _texts(masked, prompts)
    assert _texts(masked, prompts) != _texts(metal_llm("llama3"), prompts)


@pytest.mark.parametrize("name", NAMES)
def test_strangers_in_the_batch_do_not_matter(name: str, metal_llm: Load) -> None:
    llm = metal_llm(name, max_num_batched_tokens=48, prefix_caching=False)
    prompts = [_ids(llm, 3 + 11 * i, seed=i) for i in range(8)]
    together = _texts(llm, prompts)
    assert [_texts(llm, [prompt])[0] for prompt in prompts] == together


@pytest.mark.parametrize(
    ("name", "kv_types"),
    [
        ("llama3", ("q8_0", "q4_0")),
        ("llama3", ("bf16", "f16")),
        ("llama3", ("f32", "q8_0")),
        ("qwen3", ("q4_0", "q4_0")),  # scores of 1,024 tokens, beside prompts in one step
    ],
)
def test_types_of_k_and_v(name: str, kv_types: tuple[str, str], metal_llm: Load) -> None:
    types = dict(zip(("kv_type_k", "kv_type_v"), kv_types, strict=True))
    whole = metal_llm(name, **types)
    prompts = [_ids(whole, 5 + 13 * i, seed=i) for i in range(4)]
    expected = _texts(whole, prompts)
    cut = metal_llm(name, cache="paged", max_num_batched_tokens=9, **types)
    assert _texts(cut, prompts) == expected
    assert _texts(metal_llm(name), prompts) != expected  # the types reach the kernels


@pytest.mark.parametrize("name", NAMES)
def test_contexts_of_several_partitions(
    name: str, metal_llm: Load, tiny_llm: Callable[..., LLM]
) -> None:
    """Decode splits the cache at multiples of 512 tokens; the CPU agrees, and so do strategies."""
    config = {"kv_type_k": "f32", "kv_type_v": "f32", "context_length": 700}
    whole = metal_llm(name, **config)
    prompts = [_ids(whole, n, seed=n) for n in (507, 600)]
    expected = _texts(whole, prompts)
    assert _texts(metal_llm(name, cache="paged", **config), prompts) == expected
    for (tokens, logprobs), (cpu_tokens, cpu_logprobs) in zip(
        expected, _texts(tiny_llm(name, **config), prompts), strict=True
    ):
        assert tokens == cpu_tokens
        ours, theirs = ([p.logprob for p in side] for side in (logprobs, cpu_logprobs))
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-2)


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_the_gpu_finds_the_best_tokens(temperature: float, metal_llm: Load) -> None:
    """Samplers draw the same from the few that the GPU names as from whole rows of logits."""
    draw = SamplingParams(max_tokens=6, temperature=temperature, seed=5, ignore_eos=False)
    whole = dataclasses.replace(draw, logprobs=0)  # needs every logit
    llm = metal_llm("gemma3")
    prompts = [_ids(llm, 5 + 3 * i, seed=i) for i in range(3)]
    outputs = {}
    for params in (draw, whole):
        llm.engine.runner.executable.set_profiling(True)
        outputs[params.logprobs] = [o.token_ids for o in llm.generate(prompts, params)]
        names = {t.name for t in llm.engine.runner.executable.stage_times()}
        searching = {"argmax"} if temperature == 0 else {"top_k_chunks", "top_k_merge"}
        assert searching & names == (searching if params is draw else set())
    assert outputs[None] == outputs[0]
