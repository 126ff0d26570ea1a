"""The forward-pass oracle agrees with llama.cpp (tiny models) and with exact logits (real models).

Tolerances. The tiny goldens are llama.cpp's logits over float32-expanded weights, so both sides
do the same mathematics, one in float64 and one in float32: the largest difference measured is
1.4e-5 on logits of standard deviation 2.5, and 1e-4 is allowed.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import reference as ops
from gguf import GGUFReader
from reference_model import ReferenceModel

DATA = Path(__file__).parent / "data"
GOLDENS: dict[str, Any] = json.loads((DATA / "goldens.json").read_text())["models"]
PROMPTS = ("short", "long")
SHARED_LOGITS = Path(__file__).parents[1] / ".." / "shared" / "reference" / "logits"

ATOL = 1e-4
# llama.cpp on the quantised files themselves rounds activations too: logits move by up to 0.65
NATIVE_MEAN_KL = 0.02


def _model(name: str) -> ReferenceModel:
    return ReferenceModel(DATA / "models" / f"{name}.gguf")


def _golden(name: str, prompt: str, kind: str) -> np.ndarray:
    with np.load(DATA / "goldens.npz") as arrays:
        return arrays[f"{name}/{prompt}/{kind}"]


def test_goldens_belong_to_the_files():
    assert sorted(GOLDENS) == sorted(path.stem for path in (DATA / "models").glob("*.gguf"))
    for name, record in GOLDENS.items():
        digest = hashlib.sha256((DATA / "models" / f"{name}.gguf").read_bytes()).hexdigest()
        assert digest == record["sha256"], f"{name}.gguf changed: rerun make_goldens.py"


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("name", GOLDENS)
def test_tiny_model_matches_llama_cpp(name, prompt):
    record = GOLDENS[name][prompt]
    got = _model(name).logits(record["token_ids"], record["positions"])
    np.testing.assert_allclose(got, _golden(name, prompt, "exact"), rtol=0, atol=ATOL)


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("name", GOLDENS)
def test_greedy_continuation_matches_llama_cpp(name, prompt):
    record = GOLDENS[name][prompt]
    n_prompt, greedy = len(record["token_ids"]), record["greedy_token_ids"]
    n_tokens = n_prompt + len(greedy)
    got = _model(name).logits(record["token_ids"] + greedy, range(n_prompt - 1, n_tokens - 1))
    decided = np.array(record["greedy_top2_gaps"]) > 2 * ATOL
    assert decided.sum() >= len(greedy) - 2
    np.testing.assert_array_equal(got.argmax(axis=-1)[decided], np.array(greedy)[decided])


@pytest.mark.parametrize("name", GOLDENS)
def test_native_llama_cpp_is_near(name):
    kls = []
    for prompt in PROMPTS:
        got = _model(name).logits(GOLDENS[name][prompt]["token_ids"])[-1]
        kls.append(_kl(got, _golden(name, prompt, "native")))
    assert np.mean(kls) < NATIVE_MEAN_KL


@pytest.mark.parametrize("name", GOLDENS)
def test_tiny_model_can_tell_rules_apart(name):
    """Weights are such that a wrong rule shows: context matters, logits are spread and decided."""
    ids = GOLDENS[name]["long"]["token_ids"]
    changed = [5 if ids[0] != 5 else 6, *ids[1:]]
    model = _model(name)
    logits, other = model.logits(ids), model.logits(changed)
    assert np.abs(logits - other)[1:].max(axis=-1).min() > 100 * ATOL
    top = np.sort(logits, axis=-1)[:, -2:]
    assert np.mean(top[:, 1] - top[:, 0] > 0.05) > 0.8
    assert logits.std() > 1.0


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("llama3", "rope.freq_base", 10000.0),
        ("mistral", "rope.scaling.factor", 1.0),
        ("qwen2", "attention.layer_norm_rms_epsilon", 1e-3),
        ("gemma3", "attention.sliding_window", 15),
        ("gemma3", "attention.sliding_window", 17),
        ("gemma3", "attention.sliding_window_pattern", 7),
        ("gemma3", "rope.freq_base_swa", 1000000.0),
        ("gemma3", "rope.freq_base", 10000.0),
        ("gemma3-scaled", "rope.scaling.factor", 1.0),
        ("gemma3-scaled", "rope.freq_base_swa", 10000.0),
        ("gemma3-scaled", "attention.sliding_window_pattern", 6),
        ("gemma3-scaled", "final_logit_softcapping", 0.0),
        ("granite", "embedding_scale", 1.0),
        ("granite", "residual_scale", 1.0),
        ("granite", "attention.scale", 0.25),
        ("granite", "logit_scale", 1.0),
        ("granite", "rope.scaling.finetuned", False),
    ],
)
def test_goldens_notice_a_wrong_hyperparameter(name, key, value):
    record = GOLDENS[name]["long"]
    model = _model(name)
    model.metadata[f"{model.architecture}.{key}"] = value
    model.eps = model.metadata[f"{model.architecture}.attention.layer_norm_rms_epsilon"]
    got = model.logits(record["token_ids"], record["positions"])
    assert np.abs(got - _golden(name, "long", "exact")).max() > 100 * ATOL


def test_goldens_notice_missing_rope_factors_and_the_wrong_pairing(monkeypatch):
    record = GOLDENS["llama3"]["long"]
    want = _golden("llama3", "long", "exact")
    model = _model("llama3")
    model.weight("rope_freqs.weight")[:] = 1.0
    got = model.logits(record["token_ids"], record["positions"])
    assert np.abs(got - want).max() > 100 * ATOL
    true_rope = ops.rope

    def other_pairing(*args, interleaved, **kwargs):
        return true_rope(*args, interleaved=not interleaved, **kwargs)

    monkeypatch.setattr(ops, "rope", other_pairing)
    for name in GOLDENS:
        record = GOLDENS[name]["long"]
        got = _model(name).logits(record["token_ids"], record["positions"])
        assert np.abs(got - _golden(name, "long", "exact")).max() > 100 * ATOL


def test_gemma3_layers_alternate_five_local_one_global():
    model = _model("gemma3")
    assert [model._span(layer).window for layer in range(7)] == [16] * 5 + [None, 16]
    assert [model._span(layer).rope_base for layer in (0, 5)] == [10000.0, 1000000.0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stem", "file_name"),
    [
        ("smollm2-135m-instruct-q4_1", "SmolLM2-135M-Instruct.Q4_1.gguf"),
        ("gemma-3-270m-q4_k_m", "gemma-3-270m-q4_k_m.gguf"),
    ],
)
def test_real_model_matches_exact_logits(stem, file_name):
    """exact_N are rounded to float16, so half a float16 step is allowed on top of 1e-3."""
    path = Path(os.environ.get("QUARREL_TEST_MODELS", "")) / file_name
    if not path.exists() or not (SHARED_LOGITS / f"{stem}.json").exists():
        pytest.skip(f"needs {file_name} in $QUARREL_TEST_MODELS and the shared reference logits")
    model = ReferenceModel(path)
    cases = json.loads((SHARED_LOGITS / f"{stem}.json").read_text())
    arrays = np.load(SHARED_LOGITS / f"{stem}.npz")
    for case in cases:
        ids = case["prompt_token_ids"]
        want = arrays[f"exact_{case['case']}"]
        difference = np.abs(model.logits(ids, [len(ids) - 1])[0] - want.astype(np.float32))
        half_step = np.spacing(np.abs(want)).astype(np.float32) / 2
        assert np.all(difference <= half_step + 1e-3)


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def _kl(p_logits: np.ndarray, q_logits: np.ndarray) -> float:
    """KL(p || q) in nats."""
    p, q = (x - np.logaddexp.reduce(x) for x in (p_logits.astype(float), q_logits.astype(float)))
    return float(np.sum(np.exp(p) * (p - q)))


def test_make_tiny_models_reproduces_the_files(tmp_path):
    script = DATA / "make_tiny_models.py"
    subprocess.run([sys.executable, script, tmp_path], check=True, capture_output=True)
    for path in sorted((DATA / "models").glob("*.gguf")):
        kept, made = (GGUFReader(p).tensors for p in (path, tmp_path / path.name))
        assert [tensor.name for tensor in kept] == [tensor.name for tensor in made]
        for a, b in zip(kept, made, strict=True):
            assert a.tensor_type == b.tensor_type
            np.testing.assert_array_equal(a.data, b.data)
