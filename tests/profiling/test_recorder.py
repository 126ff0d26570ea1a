"""A recording: spans nest and follow each other, sums are the stages' own, what is off costs
nothing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from longbow_quarrel import LLM, SamplingParams
from longbow_quarrel.errors import OutOfMemoryError
from longbow_quarrel.observer import EngineObserver
from longbow_quarrel.profiling import Recorder, Recording

Load = Callable[..., LLM]
GREEDY = SamplingParams(max_tokens=6, temperature=0, ignore_eos=True)
PROMPTS = [[5] * 20, [7, 8, 9], list(range(5, 45))]


def record(llm: LLM, prompts: list[list[int]] = PROMPTS, **sizes: int) -> Recording:
    with Recorder(llm.engine, **sizes) as recorder:
        llm.generate(prompts, GREEDY)
    return recorder.recording


@pytest.fixture(params=[1, 3])
def recording(request: pytest.FixtureRequest, tiny_llm: Load) -> Recording:
    return record(tiny_llm("gemma3", cache="paged", n_threads=request.param))


def test_every_thread_has_a_track(recording: Recording) -> None:
    n = len(recording.tracks)
    assert [t.name for t in recording.tracks] == ["engine", "worker 1", "worker 2"][:n]
    assert all(t.n_lost == 0 for t in recording.tracks)
    assert len(recording.tracks[0].spans) > 0


def test_spans_lie_in_the_recording_and_end_in_order(recording: Recording) -> None:
    for track in recording.tracks:
        start, end = track.spans[:, 0], track.spans[:, 1]
        assert (start <= end).all()
        assert (np.diff(end) >= 0).all()
        assert len(track.spans) == 0 or start.min() >= recording.start
        assert len(track.spans) == 0 or end.max() <= recording.end


def test_sums_of_spans_are_the_stage_times(recording: Recording) -> None:
    spans = recording.tracks[0].spans
    stages = spans[spans[:, 3] == 0]
    for name in {t.name for t in recording.stage_times}:
        mine = stages[stages[:, 2] == recording.names.index(name)]
        times = [t for t in recording.stage_times if t.name == name]
        assert len(mine) == sum(t.n_runs for t in times)
        ns = int((mine[:, 1] - mine[:, 0]).sum())
        assert ns * 1e-9 == pytest.approx(sum(t.seconds for t in times), abs=1e-12)


def test_loops_lie_in_their_stages_and_take_all_items(recording: Recording) -> None:
    engine = recording.tracks[0].spans
    stages = engine[(engine[:, 3] == 0) & (engine[:, 2] != recording.names.index("step"))]
    stages = stages[np.argsort(stages[:, 0], kind="stable")]
    for track in recording.tracks:
        loops = track.spans[track.spans[:, 3] > 0]
        loops = loops[loops[:, 2] != recording.names.index("rope_tables")]
        at = np.searchsorted(stages[:, 0], loops[:, 0], side="right") - 1
        assert (loops[:, 1] <= stages[at, 1]).all()
        assert (loops[:, 2] == stages[at, 2]).all()


def test_steps_lie_in_the_part_that_computes(recording: Recording) -> None:
    spans = recording.tracks[0].spans
    steps = spans[spans[:, 2] == recording.names.index("step")]
    compute = [p for p in recording.parts if p.name == "compute"]
    assert len(steps) == len(compute) == sum(recording.n_steps.values())
    for step, part in zip(steps, compute, strict=True):
        assert part.start <= step[0] <= step[1] <= part.end
        assert part.details["tokens"] in range(1, 64)
    assert sum(int(p.details["tokens"]) for p in compute) == sum(recording.n_tokens.values())
    for before, after in zip(recording.parts, recording.parts[1:], strict=False):
        assert before.end <= after.start
    total = sum(p.end - p.start for p in recording.parts)
    assert total * 1e-9 == pytest.approx(sum(recording.part_seconds.values()), abs=1e-9)


def test_requests_are_timed_by_the_same_clock(recording: Recording) -> None:
    assert [r.n_prompt for r in recording.requests] == [20, 3, 40]
    for r in recording.requests:
        assert r.started is not None
        assert r.first_token is not None
        assert recording.start <= r.arrived <= r.started <= r.first_token <= r.finished
        assert r.finished <= recording.end
        assert (r.n_generated, r.finish_reason) == (6, "length")
        assert r.miss_reason in ("empty", "partial_block")


def test_small_rings_lose_the_oldest_and_say_so(tiny_llm: Load) -> None:
    llm = tiny_llm("llama3", prefix_caching=False, max_num_seqs=1)
    whole, part = record(llm), record(llm, spans=32, events=4)
    engine = part.tracks[0]
    assert len(engine.spans) == 32
    assert engine.n_lost == pytest.approx(len(whole.tracks[0].spans) - 32, abs=60)
    assert {t.name: t.n_runs for t in part.stage_times} == {
        t.name: t.n_runs for t in whole.stage_times
    }


def test_texts_are_the_same_and_nothing_is_left_on(tiny_llm: Load) -> None:
    llm = tiny_llm("llama3", cache="paged", prefix_caching=False)
    expected = [o.token_ids for o in llm.generate(PROMPTS, GREEDY)]
    engine = llm.engine
    before = engine.runner.ledger.used_bytes
    mine = engine.observer = EngineObserver()
    with Recorder(engine, spans=1 << 10) as recorder:
        assert engine.runner.ledger.used_bytes > before
        assert [o.token_ids for o in llm.generate(PROMPTS, GREEDY)] == expected
    assert engine.observer is mine
    n_spans = len(recorder.recording.tracks[0].spans)
    assert [o.token_ids for o in llm.generate(PROMPTS, GREEDY)] == expected
    assert len(recorder._log.spans(0)) == n_spans
    del recorder
    assert engine.runner.ledger.used_bytes == before


def test_memory_for_it_is_refused_by_the_ledger(tiny_llm: Load) -> None:
    llm = tiny_llm("llama3")
    llm.engine.runner.ledger.refuse_charge(1)
    with pytest.raises(OutOfMemoryError):
        Recorder(llm.engine)
