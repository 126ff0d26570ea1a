"""Perplexity against the NumPy oracle, and against the exact figures of real models."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from longbow_quarrel import LLM, EngineConfig
from longbow_quarrel.errors import ContextLengthError, UsageError
from longbow_quarrel.evaluation.perplexity import perplexity
from reference_model import ReferenceModel

WIKITEXT = Path(__file__).parents[3] / "shared" / "reference" / "wikitext-2-test.txt"
N_CTX = 48


def made_text(n_words: int) -> str:
    draw = random.Random(7)
    words = ["the", "cache", "holds", "keys", "and", "values", "of", "every", "token", "<eos>", "é"]
    return " ".join(draw.choice(words) for _ in range(n_words))


def oracle_losses(path: Path, llm: LLM, text: str, n_chunks: int) -> list[float]:
    tokenizer = llm.engine.tokenizer
    ids = tokenizer.encode(text, add_special=True, parse_special=False)
    model = ReferenceModel(path)
    losses = []
    for start in range(0, n_chunks * N_CTX, N_CTX):
        chunk = ids[start : start + N_CTX]
        shown = [tokenizer.bos_id, *chunk[1:]] if tokenizer.add_bos else chunk
        logits = model.logits(shown).astype(np.float64)
        for position in range(N_CTX // 2, N_CTX - 1):
            row = logits[position]
            losses.append(float(np.logaddexp.reduce(row) - row[chunk[position + 1]]))
    return losses


@pytest.mark.parametrize("name", ["llama3", "gemma3", "mistral", "qwen2"])
def test_agrees_with_the_oracle(tiny_model_path: Callable[[str], Path], name: str) -> None:
    path = tiny_model_path(name)
    text = made_text(200)
    llm = LLM(path, config=EngineConfig(n_threads=2, kv_type_k="f32", kv_type_v="f32"))
    result = perplexity(llm.engine, text, n_ctx=N_CTX, n_chunks=3)
    losses = oracle_losses(path, llm, text, 3)
    assert result.n_chunks == 3
    assert result.n_scored == len(losses) == 3 * (N_CTX - 1 - N_CTX // 2)
    assert result.n_tokens == 3 * N_CTX
    assert result.perplexity == pytest.approx(math.exp(np.mean(losses)), rel=1e-4)
    error = math.exp(np.mean(losses)) * np.std(losses, ddof=1) / math.sqrt(len(losses))
    assert result.standard_error == pytest.approx(error, rel=1e-3)


def test_does_not_depend_on_how_chunks_are_computed(
    tiny_model_path: Callable[[str], Path],
) -> None:
    values = {
        perplexity(
            LLM(
                tiny_model_path("gemma3"),
                config=EngineConfig(n_threads=n_threads, max_num_batched_tokens=n_batch),
            ).engine,
            made_text(100),
            n_ctx=N_CTX,
        ).perplexity
        for n_threads, n_batch in ((1, 512), (2, 7), (2, 1))
    }
    assert len(values) == 1


def test_uses_all_whole_chunks_and_reports_progress(tiny_llm: Callable[..., LLM]) -> None:
    llm = tiny_llm("llama3")
    text = made_text(120)
    seen: list[tuple[int, int, float]] = []
    result = perplexity(llm.engine, text, n_ctx=N_CTX, progress=lambda *args: seen.append(args))
    assert result.n_chunks == len(llm.tokenize(text)) // N_CTX
    assert [done for done, _, _ in seen] == list(range(1, result.n_chunks + 1))
    assert {total for _, total, _ in seen} == {result.n_chunks}
    assert seen[-1][2] == pytest.approx(result.perplexity)
    assert llm.stats()["cache"]["n_sequences"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_ctx": 3}, "at least 4 tokens, not 3"),
        ({"n_ctx": 48, "n_chunks": 0}, "at least 1, not 0"),
        ({"n_ctx": 200}, "at least 400 are needed"),
    ],
)
def test_refuses(tiny_llm: Callable[..., LLM], arguments: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        perplexity(tiny_llm("llama3").engine, "A short text.", **arguments)


def test_refuses_chunks_longer_than_the_context(tiny_llm: Callable[..., LLM]) -> None:
    llm = tiny_llm("llama3", context_length=32)
    with pytest.raises(ContextLengthError, match=r"48 tokens do not fit.*hold 32"):
        perplexity(llm.engine, made_text(200), n_ctx=N_CTX)


# Exact values: float32 forward passes over the dequantised weights.
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("fixture", "n_chunks", "n_ctx", "exact"),
    [
        ("smollm2_path", 20, 512, 23.0116),
        ("smollm2_path", 5, 2048, 18.3929),
        ("gemma3_path", 20, 512, 16.5623),
        ("gemma3_path", 5, 2048, 13.2421),
    ],
)
def test_real_models(
    request: pytest.FixtureRequest, fixture: str, n_chunks: int, n_ctx: int, exact: float
) -> None:
    if not WIKITEXT.exists():
        pytest.skip(f"{WIKITEXT} is absent")
    path = request.getfixturevalue(fixture)
    llm = LLM(path, config=EngineConfig(context_length=n_ctx))
    result = perplexity(
        llm.engine, WIKITEXT.read_text(encoding="utf-8"), n_ctx=n_ctx, n_chunks=n_chunks
    )
    assert result.perplexity == pytest.approx(exact, rel=0.0015)
