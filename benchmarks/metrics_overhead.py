"""What metrics cost when decoding: the same steps with and without them, in turns.

    python benchmarks/metrics_overhead.py -m smollm2-135m

Prints one JSON object. The difference is taken within each pair of runs, so that a slow moment of
the machine meets both, and its median is given with a bootstrap interval of 95 %.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time

from longbow_quarrel import LLM, EngineConfig, SamplingParams
from longbow_quarrel.observer import EngineObserver
from longbow_quarrel.telemetry import EngineMetrics


def main() -> int:
    arguments = _arguments()
    llm = LLM(
        arguments.model,
        config=EngineConfig(n_threads=arguments.threads, cache="paged", prefix_caching=False),
    )
    report = {
        str(batch): _measure(llm, batch, arguments.new, arguments.pairs)
        for batch in arguments.batch
    }
    print(json.dumps({"decode_overhead_by_batch": report}, indent=2))
    return 0 if all(r["overhead_percent"] < arguments.bound for r in report.values()) else 1


def _measure(llm: LLM, batch: int, n_new: int, n_pairs: int) -> dict[str, object]:
    metrics = EngineMetrics(llm.engine, "benchmark")
    rng = random.Random(7)
    ratios: list[float] = []
    for _ in range(n_pairs):
        order = [False, True]
        rng.shuffle(order)
        seconds = {on: _decode(llm, batch, n_new, metrics if on else None) for on in order}
        ratios.append(100 * (seconds[True] / seconds[False] - 1))
    resampled = sorted(statistics.median(rng.choices(ratios, k=n_pairs)) for _ in range(2000))
    return {
        "pairs": n_pairs,
        "overhead_percent": round(statistics.median(ratios), 3),
        "interval_95": [round(resampled[50], 3), round(resampled[-51], 3)],
    }


def _decode(llm: LLM, batch: int, n_new: int, metrics: EngineMetrics | None) -> float:
    """Seconds of ``n_new`` decode steps of ``batch`` texts."""
    engine = llm.engine
    engine.observer = metrics or EngineObserver()
    engine.runner.executable.set_profiling(metrics is not None)
    params = SamplingParams(max_tokens=n_new + 1, temperature=0, ignore_eos=True)
    requests = [r for i in range(batch) for r in engine.add([20 + i] * 8, params)]
    engine.step()
    started = time.perf_counter()
    while requests[-1].finish_reason is None:
        engine.step()
    return time.perf_counter() - started


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("-b", "--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("-n", "--new", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--bound", type=float, default=1.0, help="percent")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
