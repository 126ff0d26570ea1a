"""The arms on a real model: the same bits, and a fault that is caught."""

from __future__ import annotations

from pathlib import Path

import pytest

from longbow_quarrel import LLM, EngineConfig, SamplingParams
from longbow_quarrel.config import RolloutConfig
from longbow_quarrel.rollout.engine import RolloutEngine
from rollout.candidates import Faulty

QUESTIONS = ("The capital of France is", "Once upon a time", "def fibonacci(n):", "2 + 2 =")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("candidate", "reason"),
    [("paged:0.5", None), ("swaps-blocks:0.5", "bits"), ("sliding_window:0.5,window=24", "kl")],
)
def test_smollm2(smollm2_path: Path, state_path: Path, candidate: str, reason: str | None) -> None:
    llm = LLM(
        smollm2_path,
        config=EngineConfig(n_threads=2, max_num_seqs=4, context_length=256),
        rollout=RolloutConfig(
            rollout=candidate, baseline="contiguous", shadow=1, rollout_state=state_path
        ),
    )
    engine, control = llm.engine, llm.engine.rollout
    assert isinstance(engine, RolloutEngine)
    assert control is not None
    Faulty.begun.set()
    requests = []
    for i, question in enumerate(QUESTIONS):
        prompt = llm.tokenize("In one or two sentences, as plainly as you can: " * 3 + question)
        params = SamplingParams(max_tokens=16, seed=i, ignore_eos=True)
        requests += engine.prepare(prompt, params)
        engine.submit(requests[-1], f"request-{i}")
    assert {control.plan.takes_candidate(f"request-{i}") for i in range(4)} == {True, False}
    while engine.has_work:
        engine.step()
    seen = control.evidence
    print(*control.guard.findings(), sep="\n")
    assert all((r.error, r.finish_reason) == (None, "length") for r in requests)
    if reason is None:
        assert (control.phase, seen.n_compared, seen.kl_max) == ("running", 4, 0)
        assert sum(seen.n_divergent.values()) == 0
    else:
        assert control.phase == "rolled_back"
        assert seen.n_events[reason] == 1
    llm.close()
