"""Real vocabularies: llama.cpp's own test vectors and the golden prompts of two models."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from longbow_quarrel.tokenizer import Tokenizer
from tokenizer.vocabularies import SHARED, read_metadata

VECTORS = SHARED / "reference" / "tokenizer"
LOGITS = SHARED / "reference" / "logits"
SEPARATOR = "\n__ggml_vocab_test__\n"
# Files that hold the golden prompts' models; the tests that need them say so when there are none.
MODELS = {
    "smollm2-135m-instruct-q4_1": ("SmolLM2-135M-Instruct.Q4_1.gguf", [0, 2, 4]),
    "gemma-3-270m-q4_k_m": ("gemma-3-270m-q4_k_m.gguf", [1, 106, 212]),
}


def load(path: Path) -> Tokenizer:
    if not path.exists():
        pytest.skip(f"{path.name} is not on this machine")
    return Tokenizer.from_metadata(read_metadata(path))


def cases(name: str) -> list[tuple[str, list[int]]]:
    # Bytes, because reading as text would turn the carriage returns in the cases into newlines.
    texts = (VECTORS / f"{name}.inp").read_bytes().decode().removesuffix(SEPARATOR).split(SEPARATOR)
    lines = (VECTORS / f"{name}.out").read_text(encoding="utf-8").splitlines()
    return [(t, [int(i) for i in line.split()]) for t, line in zip(texts, lines, strict=True)]


@pytest.mark.parametrize("vocabulary", ["gpt-2", "llama-spm", "qwen2"])
def test_every_case_of_llama_cpps_vectors(vocabulary: str) -> None:
    name = f"ggml-vocab-{vocabulary}.gguf"
    tokenizer = load(VECTORS / name)
    checked = cases(name)
    assert len(checked) > 40
    for text, ids in checked:
        assert tokenizer.encode(text, add_special=False) == ids, text
        assert tokenizer.decode(ids) == text
        stream = tokenizer.stream_decoder()
        assert "".join(map(stream.push, ids)) + stream.finish() == text


@pytest.mark.parametrize("model", MODELS)
def test_golden_prompts_of_real_models(model: str) -> None:
    if not LOGITS.exists():
        pytest.skip("the reference logits are not on this machine")
    folder = os.environ.get("QUARREL_TEST_MODELS")
    if folder is None:
        pytest.skip("QUARREL_TEST_MODELS does not name a folder with the two models")
    file_name, end_of_generation = MODELS[model]
    tokenizer = load(Path(folder) / file_name)
    golden = json.loads((LOGITS / f"{model}.json").read_text(encoding="utf-8"))
    assert len(golden) == 4
    for case in golden:
        assert tokenizer.encode(case["prompt"]) == case["prompt_token_ids"]
        assert tokenizer.decode(case["prompt_token_ids"]) == case["prompt"]
    assert sorted(tokenizer.eog_ids) == end_of_generation
