"""A recording as a trace in Chrome's trace-event format; https://ui.perfetto.dev opens it.

One track per thread, with a step's parts around the stages and each thread's share of a stage's
loop inside; one for what happened to the KV cache, with counters beside it; one for each request.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TextIO

from longbow_quarrel import __version__
from longbow_quarrel.errors import UsageError
from longbow_quarrel.profiling.recorder import Part, Recording, RequestTimes, Track

_THREADS, _CACHE, _REQUESTS = 1, 2, 3  # processes of the trace
# Perfetto names threads by tid alone, so each must be unique, and no process's number.
_CACHE_THREAD, _REQUESTS_THREAD, _FIRST_THREAD = 4, 5, 6
_Interval = tuple[int, int, str, str]  # start, end, name, details as JSON


def write_trace(recording: Recording, path: Path) -> int:
    """Write a trace; with gzip where the name ends with ``.gz``, which Perfetto reads too.

    Returns the number of events.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "wt", encoding="utf-8", compresslevel=4) as file:
                return _write(recording, file)
        with path.open("w", encoding="utf-8") as file:
            return _write(recording, file)
    except OSError as e:
        raise UsageError(
            f"{path} cannot be written ({e.strerror}); make room or choose another place."
        ) from None


def _write(recording: Recording, file: TextIO) -> int:
    about = {
        "version": __version__,
        "device": recording.device,
        "strategy": recording.strategy,
        "lost_spans": {track.name: track.n_lost for track in recording.tracks},
        "lost_cache_events": recording.n_lost_events,
    }
    file.write(f'{{"displayTimeUnit":"ns","otherData":{json.dumps(about)},"traceEvents":[\n')
    n_events = 0
    for event in trace_events(recording):
        file.write(",\n" if n_events else "")
        file.write(event)
        n_events += 1
    file.write("\n]}\n")
    return n_events


def trace_events(recording: Recording) -> Iterator[str]:
    """The events, each as JSON."""
    clock = _Clock(recording.start)
    yield from _metadata(recording)
    for thread, track in enumerate(recording.tracks, start=_FIRST_THREAD):
        parts = recording.parts if thread == _FIRST_THREAD else []
        for interval in _nested(track, parts, recording.names):
            yield clock.complete(thread, interval)
    yield from _cache_events(recording, clock)
    for number, request in enumerate(recording.requests):
        yield from _request_events(number, request, clock)


class _Clock:
    """Microseconds since the recording began, with all three decimals."""

    def __init__(self, start: int) -> None:
        self._start = start

    def at(self, ns: int) -> str:
        return _microseconds(max(0, ns - self._start))

    def complete(self, thread: int, interval: _Interval) -> str:
        start, end, name, details = interval
        return (
            f'{{"ph":"X","pid":{_THREADS},"tid":{thread},"name":{name},'
            f'"ts":{self.at(start)},"dur":{_microseconds(end - start)}{details}}}'
        )


def _microseconds(ns: int) -> str:
    return f"{ns // 1000}.{ns % 1000:03}"


def _metadata(recording: Recording) -> Iterator[str]:
    processes = {
        _THREADS: f"longbow-quarrel on {recording.device}",
        _CACHE: f"KV cache, {recording.strategy}",
        _REQUESTS: "requests",
    }
    for pid, name in processes.items():
        yield _named(pid, pid, "process_name", name)
    for thread, track in enumerate(recording.tracks, start=_FIRST_THREAD):
        yield _named(_THREADS, thread, "thread_name", track.name)
    yield _named(_CACHE, _CACHE_THREAD, "thread_name", "cache events")
    yield _named(_REQUESTS, _REQUESTS_THREAD, "thread_name", "requests")


def _named(pid: int, tid: int, what: str, name: str) -> str:
    event = {"ph": "M", "pid": pid, "tid": tid, "name": what, "args": {"name": name}}
    return json.dumps(event, separators=(",", ":"))


def _nested(track: Track, parts: list[Part], names: list[str]) -> list[_Interval]:
    """What a track shows, what encloses something before it."""
    quoted = [json.dumps(name) for name in names]
    spans: list[_Interval] = [
        (start, end, quoted[name], f',"args":{{"items":{n_items}}}' if n_items else "")
        for start, end, name, n_items in track.spans.tolist()
    ]
    spans.reverse()  # of spans with the same times, the one that ended last encloses the others
    outer: list[_Interval] = [
        (p.start, p.end, json.dumps(p.name), _arguments(p.details)) for p in parts
    ]
    return sorted([*outer, *spans], key=lambda interval: (interval[0], -interval[1]))


def _arguments(details: Mapping[str, int | str]) -> str:
    return f',"args":{json.dumps(dict(details))}' if details else ""


def _cache_events(recording: Recording, clock: _Clock) -> Iterator[str]:
    for event in recording.cache_events:
        yield (
            f'{{"ph":"i","s":"t","pid":{_CACHE},"tid":{_CACHE_THREAD},"name":"{event.name}",'
            f'"ts":{clock.at(event.at)},"args":{json.dumps(event.details)}}}'
        )
    for level in recording.levels:
        at = clock.at(level.at)
        blocks = {"used": level.used, "cached": level.cached, "free": level.free}
        yield _counter(_CACHE, "blocks", at, blocks)
        texts = {"running": level.running, "waiting": level.waiting}
        yield _counter(_REQUESTS, "requests", at, texts)


def _counter(pid: int, name: str, at: str, values: dict[str, int]) -> str:
    where = f'"pid":{pid},"tid":{pid},"name":"{name}"'
    return f'{{"ph":"C",{where},"ts":{at},"args":{json.dumps(values)}}}'


def _request_events(number: int, request: RequestTimes, clock: _Clock) -> Iterator[str]:
    details: dict[str, int | str] = {
        "prompt_tokens": request.n_prompt,
        "generated_tokens": request.n_generated,
        "cached_tokens": request.cached_tokens,
        "miss_reason": request.miss_reason,
        "finish_reason": request.finish_reason,
    }
    arrived, end = request.arrived, request.finished
    started, first = request.started, request.first_token
    parts = [("queue", arrived, started or end)]
    if started is not None:
        parts.append(("prefill", started, first or end))
    if first is not None:
        parts.append(("decode", first, end))
    # In the order in which they begin and end: at equal times, that of the file counts.
    yield _async("b", number, f"request {number}", clock.at(arrived), details)
    for name, begin, finish in parts:
        yield _async("b", number, name, clock.at(begin))
        yield _async("e", number, name, clock.at(finish))
    yield _async("e", number, f"request {number}", clock.at(end))


def _async(
    phase: str,
    number: int,
    name: str,
    at: str,
    details: Mapping[str, int | str] = MappingProxyType({}),
) -> str:
    common = (
        f'"cat":"request","id":{number},"pid":{_REQUESTS},"tid":{_REQUESTS_THREAD},"name":"{name}"'
    )
    return f'{{"ph":"{phase}",{common},"ts":{at}{_arguments(details)}}}'
