"""Whole models through ``device="metal"``.

On tiny models: llama.cpp's logits (see tests/models/test_models.py). Products are float32 here, so
only the order of sums differs; K and V are float32, and so are the matrices of attention.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from longbow_quarrel import LLM, EngineConfig, SamplingParams

DATA = Path(__file__).parents[1] / "data"
GOLDENS: dict[str, Any] = json.loads((DATA / "goldens.json").read_text())["models"]
ATOL = 3e-4
SHARED = Path(__file__).parents[3] / "shared" / "reference" / "logits"
GREEDY = SamplingParams(max_tokens=16, temperature=0, ignore_eos=True)
# Mean KL(exact || CPU) of the same prompts is 1e-5 at most (docs/reports/cpu.md).
MEAN_KL = 1e-5


@pytest.mark.parametrize("name", sorted(GOLDENS))
def test_logits_match_llama_cpp(name: str, metal_llm: Callable[..., LLM]) -> None:
    llm = metal_llm(name, kv_type_k="f32", kv_type_v="f32")
    for prompt in ("short", "long"):
        record = GOLDENS[name][prompt]
        got = llm.logits(record["token_ids"])[record["positions"]]
        with np.load(DATA / "goldens.npz") as arrays:
            expected = arrays[f"{name}/{prompt}/exact"]
        np.testing.assert_allclose(got, expected, rtol=0, atol=ATOL, err_msg=prompt)


@pytest.mark.parametrize("name", sorted(GOLDENS))
def test_greedy_tokens_match_llama_cpp(name: str, metal_llm: Callable[..., LLM]) -> None:
    """Prefill and decode. K and V are float32: random weights leave near ties."""
    llm = metal_llm(name, kv_type_k="f32", kv_type_v="f32")
    banned = llm.engine.tokenizer.eog_ids
    for prompt in ("short", "long"):
        record = GOLDENS[name][prompt]
        [out] = llm.generate([record["token_ids"]], GREEDY)
        for ours, theirs in zip(out.token_ids, record["greedy_token_ids"], strict=False):
            if theirs in banned:
                break  # ignore_eos bans it here; llama.cpp's goldens went on from it
            assert ours == theirs, prompt


def _kl(exact: npt.NDArray[np.floating], got: npt.NDArray[np.floating]) -> float:
    def log_softmax(logits: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        shifted = logits.astype(np.float64) - logits.max()
        return shifted - np.log(np.exp(shifted).sum())

    p, q = log_softmax(exact), log_softmax(got)
    return float(np.sum(np.exp(p) * (p - q)))


REAL = [("smollm2_path", "smollm2-135m-instruct-q4_1"), ("gemma3_path", "gemma-3-270m-q4_k_m")]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("metal")
@pytest.mark.parametrize(("fixture", "reference"), REAL, ids=["smollm2", "gemma3"])
def test_real_models_agree_with_the_cpu(
    fixture: str, reference: str, request: pytest.FixtureRequest
) -> None:
    """16 greedy tokens on five prompts are the CPU's; logits are as near to the exact ones."""
    path = request.getfixturevalue(fixture)
    if not SHARED.exists():
        pytest.skip("the reference logits are not part of the repository")
    cases = json.loads((SHARED / f"{reference}.json").read_text())
    prompts = [case["prompt_token_ids"] for case in cases]
    settings = {"context_length": 1024, "max_num_batched_tokens": 128}
    on_metal = LLM(path, config=EngineConfig(device="metal", **settings))
    on_cpu = LLM(path, config=EngineConfig(device="cpu", n_threads=2, **settings))
    with np.load(SHARED / f"{reference}.npz") as arrays:
        exact = [arrays[f"exact_{case['case']}"] for case in cases]
    kls = [_kl(e, on_metal.logits(p)[-1]) for e, p in zip(exact, prompts, strict=True)]
    print("KL(exact || metal):", [f"{kl:.2e}" for kl in kls])
    assert np.mean(kls) < MEAN_KL
    texts = [*prompts, "Once upon a time, in a village by the sea,"]
    outputs = [llm.generate(texts, GREEDY) for llm in (on_metal, on_cpu)]
    assert [o.token_ids for o in outputs[0]] == [o.token_ids for o in outputs[1]]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("metal")
def test_a_decode_step_of_smollm2_takes_seconds_on_the_rig(smollm2_path: Path) -> None:
    llm = LLM(smollm2_path, config=EngineConfig(device="metal", context_length=256))
    llm.generate(["The capital of France is"], SamplingParams(max_tokens=3, temperature=0))
    device = llm.engine.runner.device
    print(f"decode step: {device.step_seconds:.2f} s")
    assert device.step_seconds < 3


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("metal")
@pytest.mark.parametrize("fixture", ["smollm2_path", "gemma3_path"])
def test_real_models_give_the_same_bits(fixture: str, request: pytest.FixtureRequest) -> None:
    """Contiguous, paged in chunks of four tokens, window; together and each alone."""
    path = request.getfixturevalue(fixture)
    params = SamplingParams(max_tokens=2, temperature=0, ignore_eos=True, logprobs=5)
    prompts = [[450, 471, 260, 2240, 282, 4649], [1021, 900]]

    def texts(alone: bool = False, **config: Any) -> list[Any]:
        llm = LLM(path, config=EngineConfig(device="metal", context_length=256, **config))
        batches = [[p] for p in prompts] if alone else [prompts]
        return [(o.token_ids, o.logprobs) for b in batches for o in llm.generate(b, params)]

    expected = texts()
    assert texts(cache="paged", block_size=8, max_num_batched_tokens=4) == expected
    assert texts(alone=True, cache="sliding_window", window=256) == expected
