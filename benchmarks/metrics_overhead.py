"""What metrics, or a trace, cost when decoding: steps with and without them, in turns.

    python benchmarks/metrics_overhead.py -m smollm2-135m
    python benchmarks/metrics_overhead.py -m smollm2-135m --trace --bound 2

Prints one JSON object. Neighbouring steps of one generation are compared, one with metrics and one
without, so that a slow moment of the machine meets both; the median over many such pairs is given
with a bootstrap interval of 95 %. Beside it stands the time that the metrics' own Python takes.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from typing import Protocol

from longbow_quarrel import LLM, EngineConfig, SamplingParams
from longbow_quarrel.observer import EngineObserver
from longbow_quarrel.profiling import Recorder
from longbow_quarrel.telemetry import EngineMetrics


def main() -> int:
    arguments = _arguments()
    llm = LLM(
        arguments.model,
        config=EngineConfig(n_threads=arguments.threads, cache="paged", prefix_caching=False),
    )
    switch = _TraceSwitch(llm) if arguments.trace else _MetricsSwitch(llm)
    report = {str(b): _measure(llm, switch, b, arguments.pairs) for b in arguments.batch}
    print(json.dumps({"decode_overhead_by_batch": report}, indent=2))
    return 0 if all(r["overhead_percent"] < arguments.bound for r in report.values()) else 1


def _measure(llm: LLM, watched: _Switch, batch: int, n_pairs: int) -> dict[str, object]:
    rng = random.Random(7)
    pairs: list[tuple[float, float]] = []
    while len(pairs) < n_pairs:
        pairs += _decode(llm, watched, batch, n_pairs - len(pairs), rng)
    ratios = [100 * (on / off - 1) for on, off in pairs]
    resampled = sorted(statistics.median(rng.choices(ratios, k=n_pairs)) for _ in range(1000))
    step = statistics.median(off for _, off in pairs)
    return {
        "pairs": n_pairs,
        "step_ms": round(1000 * step, 3),
        "overhead_percent": round(statistics.median(ratios), 3),
        "interval_95": [round(resampled[25], 3), round(resampled[-26], 3)],
        "overhead_of_quickest_tenth_percent": round(
            100 * (_quick(pairs, 0) / _quick(pairs, 1) - 1), 3
        ),
        "own_time_percent": round(100 * _own_seconds(watched.observer, llm, batch) / step, 3),
    }


def _quick(pairs: list[tuple[float, float]], side: int) -> float:
    """The quickest tenth's slowest step: what other programs did not slow down."""
    return sorted(pair[side] for pair in pairs)[len(pairs) // 10]


class _Switch(Protocol):
    """Switches what is measured on and off, and has what observes the engine meanwhile."""

    observer: EngineObserver

    def set(self, on: bool) -> None: ...


class _TraceSwitch:
    def __init__(self, llm: LLM) -> None:
        self._recorder = Recorder(llm.engine, spans=1 << 12, events=1 << 12)
        self._is_on = False
        self.observer: EngineObserver = self._recorder.observer

    def set(self, on: bool) -> None:
        if on and not self._is_on:
            self._recorder.__enter__()
        elif self._is_on and not on:
            self._recorder.__exit__()
        self._is_on = on


class _MetricsSwitch:
    def __init__(self, llm: LLM) -> None:
        self.observer: EngineObserver = EngineMetrics(llm.engine, "benchmark")
        self._llm = llm

    def set(self, on: bool) -> None:
        self._llm.engine.observer = self.observer if on else EngineObserver()
        self._llm.engine.runner.executable.set_profiling(on)


def _decode(
    llm: LLM, switch: _Switch, batch: int, n_pairs: int, rng: random.Random
) -> list[tuple[float, float]]:
    """Seconds of neighbouring steps of ``batch`` texts, with metrics and without."""
    engine = llm.engine
    n_pairs = min(n_pairs, (engine.max_prompt_tokens - 16) // 2, 200)
    params = SamplingParams(max_tokens=2 * n_pairs + 1, temperature=0, ignore_eos=True)
    requests = [r for i in range(batch) for r in engine.add([20 + i] * 8, params)]
    engine.step()
    pairs: list[tuple[float, float]] = []
    for _ in range(n_pairs):
        seconds: dict[bool, float] = {}
        for on in rng.sample([False, True], 2):
            switch.set(on)
            started = time.perf_counter()
            engine.step()
            seconds[on] = time.perf_counter() - started
        pairs.append((seconds[True], seconds[False]))
    assert all(r.finish_reason == "length" for r in requests)
    return pairs


def _own_seconds(observer: EngineObserver, llm: LLM, batch: int) -> float:
    """Seconds that observing one decode step of ``batch`` texts takes in Python."""
    [request] = llm.engine.prepare([20] * 8, SamplingParams(max_tokens=1))
    samples: list[float] = []
    for _ in range(200):
        started = time.perf_counter()
        for part in ("schedule", "compute", "sample"):
            observer.began(part)
        observer.stepped(batch, "decode")
        for _ in range(batch):
            observer.sampled(request, 0.01)
        observer.began("idle")
        samples.append(time.perf_counter() - started)
    return statistics.median(samples)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("-b", "--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--trace", action="store_true", help="a trace instead of metrics")
    parser.add_argument("--bound", type=float, default=1.0, help="percent")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
