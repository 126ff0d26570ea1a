"""The script that tabulates what element types of the cache cost, at toy size."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from evaluation.test_perplexity import WIKITEXT, made_text
from longbow_quarrel import LLM, EngineConfig
from longbow_quarrel.evaluation.divergence import kl_divergence
from longbow_quarrel.evaluation.perplexity import perplexity, scored_logits, text_tokens

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kv_types.py"


def test_kl_divergence() -> None:
    p = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]], np.float32))
    q = np.log(np.array([[0.25, 0.5, 0.25], [0.1, 0.2, 0.7]], np.float32)) + 3
    np.testing.assert_allclose(kl_divergence(p, q), [0.25 * np.log(2), 0], atol=1e-6)


def test_the_table(tiny_model_path: Callable[[str], Path], tmp_path: Path) -> None:
    model, text = tiny_model_path("llama3"), tmp_path / "text"
    text.write_text(made_text(400))
    out, page = tmp_path / "out.json", tmp_path / "out.md"
    arguments = ["--text", text, "--depths", 32, 64, "--chunks", 3, 2, "--threads", 1]
    runpy.run_path(str(SCRIPT))["main"](
        [str(a) for a in (model, *arguments, "--json", out, "--markdown", page)]
    )
    facts = json.loads(out.read_text())
    rows = {(r["n_ctx"], r["k_type"], r["v_type"]): r for r in facts["rows"]}
    assert len(rows) == 12
    engine = LLM(model, config=EngineConfig(n_threads=1)).engine
    for n_ctx, n_chunks in ((32, 3), (64, 2)):
        f16, q4 = rows[n_ctx, "f16", "f16"], rows[n_ctx, "q4_0", "q4_0"]
        expected = perplexity(engine, text.read_text(), n_ctx=n_ctx, n_chunks=n_chunks)
        assert f16["perplexity"] == pytest.approx(expected.perplexity, rel=1e-12)
        assert f16["n_scored"] == expected.n_scored
        assert f16["kl_mean"] == pytest.approx(0, abs=1e-9)
        assert rows[n_ctx, "q8_0", "q8_0"]["kl_mean"] < q4["kl_mean"]
        assert q4["kv_bytes_per_token"] < f16["kv_bytes_per_token"] / 3
    assert page.read_text().count("\n| llama3 |") == 12


@pytest.mark.slow
@pytest.mark.parametrize("path", ["smollm2_path", "gemma3_path"])
def test_real_q8_0_is_as_good_as_f16(path: str, request: pytest.FixtureRequest) -> None:
    """Within 0.1 % of perplexity; docs/reports/kv-types.md has more depths."""
    if not WIKITEXT.exists():
        pytest.skip("needs shared/reference/wikitext-2-test.txt beside the repository")
    text = WIKITEXT.read_text(encoding="utf-8")
    values = []
    for kv_type in ("f16", "q8_0"):
        config = EngineConfig(n_threads=2, kv_type_k=kv_type, kv_type_v=kv_type)
        engine = LLM(request.getfixturevalue(path), config=config).engine
        values.append(perplexity(engine, text, n_ctx=512, n_chunks=4).perplexity)
    assert values[1] == pytest.approx(values[0], rel=1e-3)


def test_real_q8_0_predicts_what_f16_does(smollm2_path: Path) -> None:
    """On a text made here; its words in no order are harder than prose."""
    engines = [
        LLM(smollm2_path, config=EngineConfig(n_threads=2, kv_type_k=k, kv_type_v=k)).engine
        for k in ("f16", "q8_0", "q4_0")
    ]
    chunk = text_tokens(engines[0], made_text(700), 256)[:256]
    means = []
    for other in engines[1:]:
        pairs = zip(scored_logits(engines[0], chunk), scored_logits(other, chunk), strict=True)
        rows = [kl_divergence(p, q) for (p, _), (q, _) in pairs]
        means.append(np.concatenate(rows).mean())
    assert means[0] < 2e-3
    assert means[0] < means[1] / 10
