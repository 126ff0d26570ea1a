"""Every architecture computes what llama.cpp computes on the same weights in float32.

Goldens are llama.cpp's logits over float32-expanded weights, with a standard deviation of about
2.5. On the same expanded weights both sides sum in float32, in different orders. On the files as
they are our quantised products meet activations of 16 bits (cpp/cpu/packing/packed_format.h),
which random weights amplify: at most 2.1e-3 was seen; a wrong rope, norm or scale is off by tenths.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gguf
from data.make_goldens import expand_to_float32
from longbow_quarrel import LLM, EngineConfig, SamplingParams, _core, models
from longbow_quarrel.errors import ModelFormatError

DATA = Path(__file__).parents[1] / "data"
GOLDENS: dict[str, Any] = json.loads((DATA / "goldens.json").read_text())["models"]
ATOL_FLOAT32 = 2e-4
ATOL_QUANTISED = 4e-3


@pytest.fixture(params=sorted(GOLDENS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _assert_logits(llm: LLM, name: str, prompt: str, atol: float) -> None:
    record = GOLDENS[name][prompt]
    got = llm.logits(record["token_ids"])[record["positions"]]
    with np.load(DATA / "goldens.npz") as arrays:
        expected = arrays[f"{name}/{prompt}/exact"]
    np.testing.assert_allclose(got, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("prompt", ["short", "long"])
def test_logits_match_llama_cpp(name, prompt, tiny_llm):
    llm = tiny_llm(name, kv_type_k="f32", kv_type_v="f32")
    _assert_logits(llm, name, prompt, ATOL_QUANTISED)


@pytest.mark.parametrize("prompt", ["short", "long"])
def test_logits_of_float32_weights_match_llama_cpp(name, prompt, tiny_model_path, tmp_path):
    expand_to_float32(tiny_model_path(name), tmp_path / "expanded.gguf")
    config = EngineConfig(n_threads=2, kv_type_k="f32", kv_type_v="f32")
    _assert_logits(LLM(tmp_path / "expanded.gguf", config=config), name, prompt, ATOL_FLOAT32)


@pytest.mark.parametrize("prompt", ["short", "long"])
def test_greedy_tokens_match_llama_cpp(name, prompt, tiny_llm):
    record = GOLDENS[name][prompt]
    greedy = SamplingParams(
        max_tokens=len(record["greedy_token_ids"]), temperature=0, ignore_eos=True
    )
    llm = tiny_llm(name, kv_type_k="f32", kv_type_v="f32")
    [out] = llm.generate([record["token_ids"]], greedy)
    banned = llm.engine.tokenizer.eog_ids
    for ours, theirs in zip(out.token_ids, record["greedy_token_ids"], strict=True):
        if theirs in banned:
            break  # ignore_eos bans it here; llama.cpp's goldens went on from it
        assert ours == theirs


def test_hybrid_model_has_a_group_per_span(tiny_model_path):
    _, program = models.record(_core.GGUFFile(str(tiny_model_path("gemma3"))))
    assert [(g.window, list(g.layers)) for g in program.groups] == [
        (16, [0, 1, 2, 3, 4, 6]),
        (0, [5]),
    ]


@pytest.fixture
def write_model(tmp_path):
    """A file with keys and tensors of a one-layer llama, changed as asked; None leaves one out."""

    def write(architecture="llama", tensors=(), **keys) -> Path:
        path = tmp_path / "model.gguf"
        writer = gguf.GGUFWriter(path, architecture)
        values = {
            "block_count": 1,
            "context_length": 64,
            "embedding_length": 32,
            "feed_forward_length": 32,
            "attention.head_count": 2,
        } | {key.replace("__", "."): value for key, value in keys.items()}
        for key, value in values.items():
            if isinstance(value, str):
                writer.add_string(f"{architecture}.{key}", value)
            elif value is not None:
                writer.add_uint32(f"{architecture}.{key}", value)
        writer.add_float32(f"{architecture}.attention.layer_norm_rms_epsilon", 1e-5)
        shapes = {"token_embd.weight": (40, 32)} | dict(tensors)
        for tensor, shape in shapes.items():
            writer.add_tensor(tensor, np.zeros(shape, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"architecture": "mamba"}, "architecture 'mamba' is not supported"),
        ({"block_count": None}, "llama.block_count must be a whole number"),
        ({"block_count": 0}, "llama.block_count must be a whole number of at least 1, got 0"),
        ({"attention__head_count": 3, "attention__head_count_kv": 2}, "3 query heads over 2"),
        ({"expert_count": 8}, "mixture of experts is not supported"),
        ({"rope__scaling__type": "yarn"}, "rope scaling of type 'yarn' is not supported"),
        ({"rope__dimension_count": 4}, "rotary embedding of part of a head"),
        ({"attention__value_length": 8}, "key and value heads of different sizes"),
        ({}, "tensor blk.0.attn_norm.weight is missing"),
    ],
)
def test_unsupported_or_incomplete_file_is_refused_by_name(write_model, keys, message):
    with pytest.raises(ModelFormatError, match=r"model\.gguf") as error:
        models.record(_core.GGUFFile(str(write_model(**keys))))
    assert message in str(error.value)


def test_tensor_of_a_wrong_shape_is_refused_by_op(write_model):
    from longbow_quarrel.errors import QuarrelError

    path = write_model(tensors={"blk.0.attn_norm.weight": (31,)})
    with pytest.raises(QuarrelError, match=r"\[rms_norm\] expected .* got"):
        models.record(_core.GGUFFile(str(path)))


def test_head_size_that_kernels_do_not_take_is_refused(write_model):
    block = {f"blk.0.{n}.weight": (32, 32) for n in ("attn_q", "attn_k", "attn_v", "attn_output")}
    block |= {f"blk.0.{n}.weight": (32, 32) for n in ("ffn_gate", "ffn_up", "ffn_down")}
    norms = dict.fromkeys(("blk.0.attn_norm.weight", "blk.0.ffn_norm.weight"), (32,))
    path = write_model(
        attention__head_count=4, tensors=block | norms | {"output_norm.weight": (32,)}
    )
    with pytest.raises(Exception, match="head size that is a multiple of 16, got 8"):
        LLM(path, config=EngineConfig())
