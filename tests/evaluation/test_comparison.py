"""An engine beside bases: of its own, of a NumPy oracle, of llama-perplexity."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from evaluation import llama_file
from evaluation.test_perplexity import N_CTX, WIKITEXT, made_text
from longbow_quarrel import LLM, EngineConfig
from longbow_quarrel.errors import ContextLengthError, LogitsBaseError, UsageError
from longbow_quarrel.evaluation.compact import RowDivergences, log_softmax
from longbow_quarrel.evaluation.comparison import (
    Comparison,
    compare,
    depth_edges,
    open_base,
    summarise,
)
from longbow_quarrel.evaluation.perplexity import perplexity, row_logits, text_tokens
from longbow_quarrel.evaluation.recording import Recorder
from reference_model import ReferenceModel

EXACT = {"kv_type_k": "f32", "kv_type_v": "f32"}


def record(llm: LLM, path: Path, n_words: int = 200, **kw: int) -> float:
    with Recorder(
        path, vocab_size=llm.engine.vocab_size, model="tiny", made_by="a test", **kw
    ) as recorder:
        return perplexity(llm.engine, made_text(n_words), n_ctx=N_CTX, sink=recorder).perplexity


def whole_divergences(base: LLM, other: LLM, n_words: int = 200) -> np.ndarray:
    """KL of all scored rows, from all logits."""
    tokens = text_tokens(base.engine, made_text(n_words), N_CTX)
    positions = np.arange(N_CTX // 2, N_CTX - 1, dtype=np.int32)
    rows = []
    for start in range(0, len(tokens) - N_CTX + 1, N_CTX):
        chunk = tokens[start : start + N_CTX]
        p, q = (
            log_softmax(
                np.concatenate([a.copy() for _, a in row_logits(llm.engine, chunk, positions)])
            )
            for llm in (base, other)
        )
        rows.append((np.exp(p) * (p - q)).sum(axis=1))
    return np.concatenate(rows)


@pytest.mark.parametrize("name", ["llama3", "gemma3"])
def test_a_compact_base_gives_the_divergence(
    tiny_llm: Callable[..., LLM], tmp_path: Path, name: str
) -> None:
    exact, rough = tiny_llm(name, **EXACT), tiny_llm(name, kv_type_k="q4_0", kv_type_v="q4_0")
    value = record(exact, tmp_path / "base", k=100)
    base = open_base(tmp_path / "base")
    found = compare(rough.engine, base).total
    expected = whole_divergences(exact, rough)
    assert found.n_rows == len(expected)
    assert found.kl_mean_lower is not None
    assert found.kl_mean_upper is not None
    assert found.kl_mean_lower <= expected.mean() <= found.kl_mean_upper
    assert abs(found.kl_mean - expected.mean()) < 5 * found.kl_sampling_error + 1e-6
    assert found.kl_max == pytest.approx(expected.max(), rel=0.1)
    assert found.base_perplexity == pytest.approx(value, rel=1e-5)
    assert found.perplexity == pytest.approx(
        perplexity(rough.engine, made_text(200), n_ctx=N_CTX).perplexity, rel=1e-7
    )
    itself = compare(exact.engine, base).total
    assert abs(itself.kl_mean) < 1e-7
    assert itself.same_top == 1


def test_fewer_chunks_are_spread_over_the_text(
    tiny_llm: Callable[..., LLM], tmp_path: Path
) -> None:
    llm = tiny_llm("llama3")
    record(llm, tmp_path / "base", n_words=300, n_chunks=3)
    base = open_base(tmp_path / "base")
    tokens = text_tokens(llm.engine, made_text(300), N_CTX)
    n = len(tokens) // N_CTX
    assert n > 6
    assert [chunk.start // N_CTX for chunk in base.chunks()] == [0, n // 3, 2 * n // 3]
    assert compare(llm.engine, base, text=tokens).total.n_rows == 3 * (N_CTX - 1 - N_CTX // 2)
    assert compare(llm.engine, base, n_chunks=1).total.n_rows == N_CTX - 1 - N_CTX // 2
    seen: list[tuple[int, int, float]] = []
    compare(llm.engine, base, progress=lambda *args: seen.append(args))
    assert [(done, total) for done, total, _ in seen] == [(1, 3), (2, 3), (3, 3)]


def test_rows_do_not_depend_on_how_chunks_are_computed(
    tiny_llm: Callable[..., LLM], tmp_path: Path
) -> None:
    record(tiny_llm("gemma3"), tmp_path / "base")
    base = open_base(tmp_path / "base")
    found = {
        compare(tiny_llm("gemma3", max_num_batched_tokens=n, **EXACT).engine, base)
        for n in (512, 7, 1)
    }
    assert len(found) == 1


def test_llama_perplexity_files_of_the_oracle(
    tiny_model_path: Callable[[str], Path], tmp_path: Path
) -> None:
    path = tiny_model_path("llama3")
    llm = LLM(path, config=EngineConfig(n_threads=2, **EXACT))
    tokens = text_tokens(llm.engine, made_text(100), N_CTX)[: 2 * N_CTX].reshape(2, N_CTX)
    model, logits = ReferenceModel(path), []
    for chunk in tokens:
        tokenizer = llm.engine.tokenizer
        shown = [tokenizer.bos_id, *chunk[1:]] if tokenizer.add_bos else list(chunk)
        logits.append(model.logits(shown)[N_CTX // 2 : N_CTX - 1])
    llama_file.write(tmp_path / "base", N_CTX, llm.engine.vocab_size, tokens, logits)
    found = compare(llm.engine, open_base(tmp_path / "base")).total
    assert abs(found.kl_mean) < 5e-5
    assert found.same_top == 1
    assert found.base_perplexity == pytest.approx(found.perplexity, rel=1e-3)
    assert found.kl_mean_lower is None


def test_other_vocabularies_texts_and_lengths(tiny_llm: Callable[..., LLM], tmp_path: Path) -> None:
    llm = tiny_llm("llama3")
    record(llm, tmp_path / "base")
    base = open_base(tmp_path / "base")
    with pytest.raises(UsageError, match="another text"):
        compare(llm.engine, base, text=text_tokens(llm.engine, "é" * 300, N_CTX))
    with pytest.raises(UsageError, match="at least 1, not 0"):
        compare(llm.engine, base, n_chunks=0)
    with pytest.raises(ContextLengthError, match="chunks of 48 tokens"):
        compare(tiny_llm("llama3", context_length=32).engine, base)
    llama_file.write(tmp_path / "other", 8, 77, np.zeros((1, 8)), [np.zeros((3, 77))])
    with pytest.raises(LogitsBaseError, match="77 tokens of vocabulary"):
        compare(llm.engine, open_base(tmp_path / "other"))


def test_summary() -> None:
    draw = np.random.default_rng(0)
    n = 2000
    kl, variance = draw.exponential(1e-3, n), draw.exponential(1e-8, n)
    depths = draw.integers(1, 1024, n)
    same = depths < 512
    rows = RowDivergences(kl, kl / 2, kl * 2, variance, same, kl + 1, kl + 2)
    found = summarise(depths, rows)
    total = found.total
    assert total.n_rows == n
    assert total.kl_mean == pytest.approx(kl.mean())
    assert total.kl_sampling_error == pytest.approx(np.sqrt(variance.sum()) / n)
    assert (total.kl_median, total.kl_max) == pytest.approx((np.median(kl), kl.max()))
    assert total.kl_p99 == pytest.approx(np.sort(kl)[int(0.99 * n)], rel=0.02)
    assert (total.kl_mean_lower, total.kl_mean_upper) == pytest.approx(
        (kl.mean() / 2, kl.mean() * 2)
    )
    assert total.base_perplexity == pytest.approx(np.e * total.perplexity)
    assert sum(part.n_rows for part in found.by_depth) == n
    assert [part.same_top for part in found.by_depth][-2:] == [1, 0]
    assert found.by_depth[-1].first_depth >= 512
    shallow = found.by_depth[-2]
    assert shallow.kl_mean == pytest.approx(kl[(depths >= 256) & (depths < 512)].mean())


@pytest.mark.parametrize(
    ("lowest", "highest", "edges"),
    [
        (257, 511, [256, 320, 384, 448, 512]),
        (1, 2047, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048]),
        (25, 47, [16, 20, 24, 28, 32, 40, 48, 56, 64]),
        (1, 1, [1, 2]),
        (512, 512, [512, 640, 768, 896, 1024]),
    ],
)
def test_depth_edges(lowest: int, highest: int, edges: list[int]) -> None:
    assert depth_edges(lowest, highest) == edges


@pytest.mark.slow
def test_real_compact_base_beside_all_logits(smollm2_path: Path, tmp_path: Path) -> None:
    """What a compact base tells of a rough KV cache is what the whole logits tell."""
    if not WIKITEXT.exists():
        pytest.skip("needs shared/reference/wikitext-2-test.txt beside the repository")
    text = WIKITEXT.read_text(encoding="utf-8")
    f16, q4 = (
        LLM(smollm2_path, config=EngineConfig(kv_type_k=t, kv_type_v=t, context_length=256))
        for t in ("f16", "q4_0")
    )
    path = tmp_path / "base"
    with Recorder(path, vocab_size=f16.engine.vocab_size, model="", made_by="") as recorder:
        perplexity(f16.engine, text, n_ctx=256, n_chunks=2, sink=recorder)
    found: Comparison = compare(q4.engine, open_base(path))
    tokens = text_tokens(f16.engine, text, 256)
    positions = np.arange(128, 255, dtype=np.int32)
    exact = []
    for chunk in (tokens[:256], tokens[256:512]):
        pairs = zip(
            row_logits(f16.engine, chunk, positions),
            row_logits(q4.engine, chunk, positions),
            strict=True,
        )
        for (_, a), (_, b) in pairs:
            p, q = log_softmax(a), log_softmax(b)
            exact.append((np.exp(p) * (p - q)).sum(axis=1))
    values = np.concatenate(exact)
    assert abs(found.total.kl_mean - values.mean()) < 4 * found.total.kl_sampling_error + 1e-6
    assert found.total.kl_sampling_error < 0.02 * values.mean()
    assert path.stat().st_size < 2500 * found.total.n_rows
