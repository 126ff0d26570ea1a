"""How near the exact reference the real models come, beside llama.cpp on the same prompts.

Reference logits are those of a float32 forward pass over dequantised weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from longbow_quarrel import LLM, SamplingParams

SHARED = Path(__file__).parents[1] / ".." / "shared" / "reference" / "logits"
MODELS = {"smollm2": "smollm2-135m-instruct-q4_1", "gemma3": "gemma-3-270m-q4_k_m"}
CLEAR_GAP = 0.5  # logits between llama.cpp's first and second choice


@pytest.fixture(params=sorted(MODELS))
def model(request: pytest.FixtureRequest) -> tuple[LLM, list[dict[str, Any]], Any]:
    stem = MODELS[request.param]
    if not (SHARED / f"{stem}.json").exists():
        pytest.skip("reference logits are not part of a clone")
    llm = request.getfixturevalue(request.param)
    cases = json.loads((SHARED / f"{stem}.json").read_text())
    return llm, cases, np.load(SHARED / f"{stem}.npz")


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def test_prompts_are_tokenised_alike(model):
    llm, cases, _ = model
    for case in cases:
        assert llm.tokenize(case["prompt"]) == case["prompt_token_ids"]


def test_kl_to_the_exact_reference(model):
    llm, cases, arrays = model
    ours, theirs = [], []
    for case in cases:
        exact = arrays[f"exact_{case['case']}"].ravel()
        got = llm.logits(case["prompt_token_ids"])[-1]
        assert got.argmax() == exact.argmax()
        p, q = _log_softmax(exact), _log_softmax(got)
        ours.append(float((np.exp(p) * (p - q)).sum()))
        theirs.append(case["kl_exact_vs_llamacpp"])
    assert np.mean(ours) <= 0.5 * np.mean(theirs)


def test_greedy_text_follows_llama_cpp_while_it_is_sure(model):
    llm, cases, _ = model
    greedy = SamplingParams(max_tokens=64, temperature=0, ignore_eos=False)
    outputs = llm.generate([case["prompt_token_ids"] for case in cases], greedy)
    for case, out in zip(cases, outputs, strict=True):
        theirs = case["llamacpp_greedy_token_ids"]
        # Walk llama.cpp's own text, so that one close call does not end the comparison.
        logits = llm.logits(case["prompt_token_ids"] + theirs[:-1])
        choices = logits[len(case["prompt_token_ids"]) - 1 :].argmax(axis=1)
        for i, gap in enumerate(case["llamacpp_top1_minus_top2_logit"][: len(theirs)]):
            if gap > CLEAR_GAP:
                assert choices[i] == theirs[i], (case["case"], i)
        # Until the first close call the texts themselves agree.
        for ours, token, gap in zip(
            out.token_ids, theirs, case["llamacpp_top1_minus_top2_logit"], strict=False
        ):
            if gap <= CLEAR_GAP:
                break
            assert ours == token
