"""The profile of an executable: what ran, how often, in which phase."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from longbow_quarrel import LLM, EngineConfig, SamplingParams


@pytest.fixture
def llm(tiny_model_path: Callable[[str], Path]) -> LLM:
    return LLM(str(tiny_model_path("llama3")), config=EngineConfig(n_threads=2))


def runs(llm: LLM, phase: str) -> dict[str, int]:
    return {
        t.name: t.n_runs for t in llm.engine.runner.executable.stage_times() if t.phase == phase
    }


def test_off_unless_asked_for(llm: LLM) -> None:
    llm.generate([[5, 6, 7]], SamplingParams(max_tokens=2, ignore_eos=True))
    assert llm.engine.runner.executable.stage_times() == []


def test_counts_stages_of_both_phases(llm: LLM) -> None:
    executable = llm.engine.runner.executable
    executable.set_profiling(True)
    llm.generate([[5, 6, 7]], SamplingParams(max_tokens=4, ignore_eos=True))
    n_layers = llm.engine.runner.parameters.n_layers
    prefill, decode = runs(llm, "prefill"), runs(llm, "decode")
    assert prefill["attention"] == n_layers
    assert decode["attention"] == 3 * n_layers
    assert decode["linear(attn_q,attn_k,attn_v)"] == 3 * n_layers
    assert all(t.seconds > 0 for t in executable.stage_times())
    executable.set_profiling(True)
    assert executable.stage_times() == []


def test_profiling_keeps_the_text(llm: LLM) -> None:
    params = SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True)
    before = llm.generate([[5, 6, 7]], params)[0].token_ids
    llm.engine.runner.executable.set_profiling(True)
    assert llm.generate([[5, 6, 7]], params)[0].token_ids == before
