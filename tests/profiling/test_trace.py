"""The trace, read back: what Perfetto needs of Chrome's format, and all that was recorded."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from longbow_quarrel import LLM, SamplingParams
from longbow_quarrel.errors import UsageError
from longbow_quarrel.profiling import Recorder, Recording, write_trace

Load = Callable[..., LLM]
Event = dict[str, Any]
PROMPTS = [list(range(5, 45)), [7, 8, 9], list(range(5, 45))]


@pytest.fixture
def recording(tiny_llm: Load) -> Recording:
    llm = tiny_llm("gemma3", cache="paged", max_num_batched_tokens=32)
    with Recorder(llm.engine) as recorder:
        for prompt in PROMPTS:
            llm.generate([prompt], SamplingParams(max_tokens=5, temperature=0, ignore_eos=True))
    return recorder.recording


@pytest.fixture
def trace(recording: Recording, tmp_path: Path) -> dict[str, Any]:
    n_events = write_trace(recording, tmp_path / "trace.json")
    read = json.loads((tmp_path / "trace.json").read_text())
    assert len(read["traceEvents"]) == n_events
    return dict(read)


def of(trace: dict[str, Any], phase: str) -> list[Event]:
    return [e for e in trace["traceEvents"] if e["ph"] == phase]


def by_track(events: list[Event]) -> dict[tuple[int, int], list[Event]]:
    tracks: dict[tuple[int, int], list[Event]] = defaultdict(list)
    for event in events:
        tracks[event["pid"], event["tid"]].append(event)
    return tracks


def thread_named(trace: dict[str, Any], name: str) -> tuple[int, int]:
    [event] = [e for e in of(trace, "M") if e["args"]["name"] == name]
    return event["pid"], event["tid"]


def test_all_processes_and_threads_are_named(trace: dict[str, Any]) -> None:
    names = {
        (e["pid"], e["tid"]): e["args"]["name"]
        for e in of(trace, "M")
        if e["name"] == "thread_name"
    }
    assert {"engine", "worker 1", "cache events"} <= set(names.values())
    assert by_track(of(trace, "X") + of(trace, "i")).keys() <= names.keys()
    tids = [tid for _, tid in names]
    assert len(set(tids)) == len(tids), "Perfetto names threads by tid alone"
    processes = {e["pid"] for e in of(trace, "M") if e["name"] == "process_name"}
    assert processes.isdisjoint(tids)
    assert {e["pid"] for e in trace["traceEvents"]} == processes


def test_spans_of_a_thread_nest(trace: dict[str, Any]) -> None:
    """As Perfetto does: in the order of the file, each lies in the one that is open, or after."""
    for events in by_track(of(trace, "X")).values():
        open_ends: list[float] = []
        last = 0.0
        for event in events:
            start, end = _ns(event["ts"]), _ns(event["ts"]) + _ns(event["dur"])
            assert start >= last
            last = start
            while open_ends and open_ends[-1] <= start:
                open_ends.pop()
            assert not open_ends or end <= open_ends[-1], event
            open_ends.append(end)


def _ns(microseconds: float) -> int:
    return round(microseconds * 1000)


def test_the_depths_are_part_step_stage_loop(trace: dict[str, Any]) -> None:
    events = by_track(of(trace, "X"))[thread_named(trace, "engine")]
    names = {e["name"] for e in events}
    assert {"schedule", "compute", "sample", "step", "attention"} <= names
    depth: dict[str, set[int]] = defaultdict(set)
    open_ends: list[int] = []
    for e in events:
        while open_ends and open_ends[-1] <= _ns(e["ts"]):
            open_ends.pop()
        depth[e["name"]].add(len(open_ends))
        open_ends.append(_ns(e["ts"]) + _ns(e["dur"]))
    assert depth["compute"] == {0}
    assert depth["step"] == {1}
    assert depth["attention"] == {2, 3}  # the stage, and this thread's share of it


def test_durations_add_up_to_the_stage_times(recording: Recording, trace: dict[str, Any]) -> None:
    stages = [e for e in by_track(of(trace, "X"))[thread_named(trace, "engine")] if "args" not in e]
    for name in {t.name for t in recording.stage_times}:
        ns = sum(_ns(e["dur"]) for e in stages if e["name"] == name)
        seconds = sum(t.seconds for t in recording.stage_times if t.name == name)
        assert ns * 1e-9 == pytest.approx(seconds, abs=1e-12)


def test_cache_events_are_in_order_and_explained(trace: dict[str, Any]) -> None:
    events = of(trace, "i")
    assert [e["ts"] for e in events] == sorted(e["ts"] for e in events)
    names = {e["name"] for e in events}
    assert {"allocate", "publish", "hit", "miss"} <= names
    assert all("reason" in e["args"] for e in events if e["name"] == "miss")
    [hit] = [e for e in events if e["name"] == "hit"]
    assert hit["args"]["tokens"] == 32


def test_counters_follow_the_cache(recording: Recording, trace: dict[str, Any]) -> None:
    blocks = [e["args"] for e in of(trace, "C") if e["name"] == "blocks"]
    assert len(blocks) == sum(recording.n_steps.values())
    assert len({sum(b.values()) for b in blocks}) == 1
    assert {e["args"]["running"] for e in of(trace, "C") if e["name"] == "requests"} == {1}


def test_requests_are_pairs_that_enclose_their_parts(trace: dict[str, Any]) -> None:
    for number in range(len(PROMPTS)):
        begins = {e["name"]: e for e in of(trace, "b") if e["id"] == number}
        ends = {e["name"]: e["ts"] for e in of(trace, "e") if e["id"] == number}
        whole = begins.pop(f"request {number}")
        assert whole["args"]["generated_tokens"] == 5
        assert set(begins) == {"queue", "prefill", "decode"}
        assert begins["queue"]["ts"] == whole["ts"]
        assert ends["queue"] == begins["prefill"]["ts"]
        assert ends["prefill"] == begins["decode"]["ts"]
        assert ends["decode"] == ends[f"request {number}"]
        mine = [e for e in trace["traceEvents"] if e["ph"] in "be" and e["id"] == number]
        open_names: list[str] = []
        for event in mine:  # in the order of the file, which counts at equal times
            if event["ph"] == "b":
                open_names.append(event["name"])
            else:
                assert open_names.pop() == event["name"]
        assert [e["ts"] for e in mine] == sorted(e["ts"] for e in mine)


def test_times_are_numbers_from_the_beginning_on(
    recording: Recording, trace: dict[str, Any]
) -> None:
    end = 1e6 * recording.seconds
    for event in trace["traceEvents"]:
        if event["ph"] != "M":
            assert 0 <= event["ts"] <= event["ts"] + event.get("dur", 0) <= end + 0.001


def test_it_says_what_it_is_and_what_it_lacks(tiny_llm: Load, tmp_path: Path) -> None:
    llm = tiny_llm("llama3")
    with Recorder(llm.engine, spans=64, events=1) as recorder:
        llm.generate([PROMPTS[0]], SamplingParams(max_tokens=5, temperature=0, ignore_eos=True))
    write_trace(recorder.recording, tmp_path / "trace.json.gz")
    trace = json.loads(gzip.decompress((tmp_path / "trace.json.gz").read_bytes()))
    about = trace["otherData"]
    assert (about["device"], about["strategy"]) == ("cpu", "contiguous")
    assert about["lost_spans"]["engine"] > 0
    assert about["lost_cache_events"] > 0
    test_spans_of_a_thread_nest(trace)


@pytest.mark.parametrize("name", ["missing/trace.json", "missing/trace.json.gz", "/dev/full"])
def test_places_that_cannot_be_written(recording: Recording, tmp_path: Path, name: str) -> None:
    if name == "/dev/full" and not Path(name).exists():
        pytest.skip("this system has no device that is always full")
    with pytest.raises(UsageError, match=f"{name} cannot be written"):
        write_trace(recording, tmp_path / name)
