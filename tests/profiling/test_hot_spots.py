"""The table adds up to the recording."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from longbow_quarrel import LLM, SamplingParams
from longbow_quarrel.profiling import Recorder, hot_spots, summary


@pytest.mark.parametrize("n_threads", [1, 2])
def test_rows_add_up(tiny_llm: Callable[..., LLM], n_threads: int) -> None:
    llm = tiny_llm("llama3", n_threads=n_threads)
    with Recorder(llm.engine) as recorder:
        llm.generate([[5] * 30], SamplingParams(max_tokens=9, temperature=0, ignore_eos=True))
    recording = recorder.recording
    rows = hot_spots(recording)
    assert sum(row.seconds for row in rows) == pytest.approx(recording.seconds)
    assert sum(row.share for row in rows) == pytest.approx(1)
    assert all(row.seconds >= 0 for row in rows)
    assert [row.seconds for row in rows] == sorted((row.seconds for row in rows), reverse=True)
    stages = {(t.name, t.phase): t for t in recording.stage_times}
    for row in rows:
        if row.phase:
            assert row.n_runs == stages[row.name, row.phase].n_runs
            assert row.seconds == stages[row.name, row.phase].seconds
    assert all(0 < row.busy <= 1 for row in rows if row.busy is not None)
    assert {row.name for row in rows if row.busy is not None} >= {"attention", "linear(token_embd)"}
    names = {row.name for row in rows if not row.phase}
    assert names >= {"schedule (Python)", "between steps"}


def test_the_summary_counts_steps_and_tokens(tiny_llm: Callable[..., LLM]) -> None:
    llm = tiny_llm("llama3", max_num_batched_tokens=16)
    with Recorder(llm.engine) as recorder:
        llm.generate([[5] * 30], SamplingParams(max_tokens=9, temperature=0, ignore_eos=True))
    figures = summary(recorder.recording)
    assert figures.steps == {"prefill": 2, "decode": 8}
    assert figures.tokens == {"prefill": 30, "decode": 8}
    assert figures.lost_spans == 0
    assert set(figures.busy) == {"engine", "worker 1"}
    assert all(0 <= share <= 1 for share in figures.busy.values())
    assert figures.busy["engine"] > 0
