"""Divergence by depth: nothing where nothing differs, more behind a window."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from evaluation.test_perplexity import made_text
from longbow_quarrel import LLM, EngineConfig
from longbow_quarrel.benchmarking.contender import parse_contenders
from longbow_quarrel.benchmarking.quality import (
    QualityBench,
    QualityRow,
    against_file,
    depths_up_to,
)
from longbow_quarrel.errors import UsageError
from longbow_quarrel.evaluation.divergence import kl_divergence
from longbow_quarrel.evaluation.perplexity import perplexity
from longbow_quarrel.evaluation.recording import Recorder

BASE = EngineConfig(n_threads=1)


def run(path: Path, names: str, **options: object) -> dict[tuple[str, int], QualityRow]:
    contenders = parse_contenders(names, BASE)
    given = {"depths": [64, 128], "n_chunks": 2, "n_rows": 16} | options
    depths = given.pop("depths")
    text = made_text(300)
    bench = QualityBench(path, text, depths, base=contenders[0], tell=lambda _: None, **given)
    return {(row.contender, row.depth): row for row in bench.run(contenders)}


def test_exact_strategies_and_lossy_ones(tiny_model_path: Callable[[str], Path]) -> None:
    exact = "paged:ctk=f32:ctv=f32"
    window = "sliding_window:window=32:ctk=f32:ctv=f32"
    rows = run(tiny_model_path("llama3"), f"{exact},{window},paged:ctk=q8_0,paged:ctk=q4_0")
    for depth in (64, 128):
        assert rows[exact, depth].kl_mean < 1e-7
        assert rows[exact, depth].same_top == 1
        assert rows[exact, depth].perplexity == rows[exact, depth].base_perplexity
        assert rows[window, depth].kl_mean > 100 * rows["paged:ctk=q8_0", depth].kl_mean > 0
        assert rows["paged:ctk=q4_0", depth].kl_mean > rows["paged:ctk=q8_0", depth].kl_mean
        assert rows[exact, depth].n_scored == 32


def test_figures_are_those_of_whole_texts(tiny_model_path: Callable[[str], Path]) -> None:
    path, name = tiny_model_path("llama3"), "paged:ctk=q4_0:ctv=q4_0"
    row = run(path, name, n_chunks=1)[name, 128]
    types = ({"kv_type_k": "f32", "kv_type_v": "f32"}, {"kv_type_k": "q4_0", "kv_type_v": "q4_0"})
    llms = [LLM(path, config=EngineConfig(n_threads=2, **kinds)) for kinds in types]
    ids = llms[0].tokenize(made_text(300))[:129]
    base, other = (llm.logits(ids)[112:128].copy() for llm in llms)
    kl = kl_divergence(base, other)
    assert row.kl_mean == pytest.approx(kl.mean(), rel=1e-6)
    assert row.kl_p99 == pytest.approx(np.quantile(kl, 0.99), rel=1e-6)
    assert row.same_top == (base.argmax(axis=1) == other.argmax(axis=1)).mean()


def test_depths() -> None:
    assert depths_up_to(1000, [256, 1000]) == [64, 128, 256, 512, 1000]
    assert depths_up_to(20, [20]) == [20]


def test_a_text_that_is_too_short_is_refused(tiny_model_path: Callable[[str], Path]) -> None:
    with pytest.raises(UsageError, match="give a longer one with -f"):
        run(tiny_model_path("llama3"), "paged", depths=[4000])


def test_a_file_of_predictions_as_the_base(
    tiny_model_path: Callable[[str], Path], tmp_path: Path
) -> None:
    path, file = tiny_model_path("llama3"), tmp_path / "base"
    exact = LLM(path, config=EngineConfig(n_threads=1, kv_type_k="f32", kv_type_v="f32")).engine
    recorder = Recorder(file, vocab_size=exact.vocab_size, model="llama3", made_by="test")
    with recorder:
        perplexity(exact, made_text(300), n_ctx=128, n_chunks=2, sink=recorder)
    names = "paged:ctk=f32:ctv=f32,sliding_window:window=32:ctk=f32:ctv=f32"
    rows = against_file(path, parse_contenders(names, BASE), file, lambda _: None)
    same, windowed = ([r for r in rows if r.contender == n] for n in names.split(","))
    assert {row.base for row in rows} == {"base"}
    assert [row.depth for row in same] == [row.depth for row in windowed]
    assert max(row.depth for row in same) == 127
    assert max(row.kl_mean for row in same) < 1e-6
    assert min(row.kl_mean for row in windowed) > 1e-3
    assert all(row.perplexity == pytest.approx(row.base_perplexity) for row in same)
