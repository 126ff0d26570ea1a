"""Where the time of a recording went, sorted: stages of the device, then Python, then waiting."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from longbow_quarrel.profiling.recorder import Recording

_PARTS = {
    "schedule": "schedule (Python)",
    "deliver": "deliver (Python)",
    "sample": "sample, detokenize (Python)",
}


@dataclass(frozen=True)
class HotSpot:
    """One kind of work.

    Attributes:
        phase: ``prefill`` (steps that compute more than one token of some text) or ``decode``;
            empty where it is not told apart.
        n_runs: how often it ran; 0 where that means nothing.
        seconds: wall time; of kernels on a GPU, the GPU's.
        share: of the recording.
        busy: how much of ``seconds`` threads worked on it, on average over all of them; the rest
            they waited. None where there are no threads to speak of.
    """

    name: str
    phase: str
    n_runs: int
    seconds: float
    share: float
    busy: float | None = None


@dataclass(frozen=True)
class Summary:
    """What was computed, and how busy the threads were during steps.

    Attributes:
        steps, tokens: by phase; ``mixed`` steps prefill some texts and decode others.
        busy: share of the time inside native steps that each track worked.
    """

    seconds: float
    steps: dict[str, int]
    tokens: dict[str, int]
    busy: dict[str, float]
    lost_spans: int


def hot_spots(recording: Recording) -> list[HotSpot]:
    """All kinds of work, longest first; their seconds add up to the recording's.

    On a GPU kernels may take less than the step that waits for them: the rest is the host's.
    """
    total = recording.seconds
    busy = _busy_by_name(recording)
    rows = [
        HotSpot(t.name, t.phase, t.n_runs, t.seconds, t.seconds / total, busy.get(t.name))
        for t in recording.stage_times
    ]
    parts = recording.part_seconds
    n_steps = sum(recording.n_steps.values())
    for part, name in _PARTS.items():
        if part not in parts:
            continue
        seconds = parts[part]
        rows.append(HotSpot(name, "", n_steps, seconds, seconds / total))
    rest = parts.get("compute", 0.0) - sum(t.seconds for t in recording.stage_times)
    rows.append(HotSpot("assemble, commit (around stages)", "", n_steps, rest, rest / total))
    outside = total - sum(parts.values())
    rows.append(HotSpot("between steps", "", 0, outside, outside / total))
    return sorted(rows, key=lambda row: row.seconds, reverse=True)


def summary(recording: Recording) -> Summary:
    """Figures beside the table."""
    in_steps = _totals(recording, 0, loops=False).get("step", 0)
    busy = {
        track.name: sum(_totals(recording, i, loops=True).values()) / in_steps
        for i, track in enumerate(recording.tracks)
        if in_steps
    }
    return Summary(
        seconds=recording.seconds,
        steps=recording.n_steps,
        tokens=recording.n_tokens,
        busy=busy,
        lost_spans=sum(track.n_lost for track in recording.tracks),
    )


def _busy_by_name(recording: Recording) -> dict[str, float]:
    """Of the spans that were kept: the threads' time in a stage's loops by the stage's own."""
    stages = _totals(recording, 0, loops=False)
    loops: Counter[str] = Counter()
    for i in range(len(recording.tracks)):
        loops.update(_totals(recording, i, loops=True))
    n_threads = len(recording.tracks)
    return {name: loops[name] / (n_threads * ns) for name, ns in stages.items() if loops[name]}


def _totals(recording: Recording, track: int, *, loops: bool) -> dict[str, int]:
    """ns by name of a track's loops (spans with items), or of its other spans."""
    totals: dict[str, int] = {}
    spans = recording.tracks[track].spans
    for start, end, name, _ in spans[(spans[:, 3] > 0) == loops].tolist():
        key = recording.names[name]
        totals[key] = totals.get(key, 0) + end - start
    return totals
