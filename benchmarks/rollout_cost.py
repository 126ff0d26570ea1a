"""What a rollout costs requests: tokens per second of processor time, with and without.

    python benchmarks/rollout_cost.py -m MODEL.gguf

One thread and processor time, so that whatever else the machine does stays out; rounds of the
three settings alternate in one process: the baseline alone, with comparisons waiting all the time,
and with half of the requests on the candidate.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from longbow_quarrel import LLM, EngineConfig, SamplingParams
from longbow_quarrel.config import RolloutConfig
from longbow_quarrel.rollout.engine import RolloutEngine

CANDIDATE, BASELINE = "paged", "contiguous"


class Bench:
    """A rollout whose parts are switched on and off between rounds."""

    def __init__(self, model: str, n_tokens: int, state: Path) -> None:
        self.llm = LLM(
            model,
            config=EngineConfig(n_threads=1, max_num_seqs=4, context_length=512),
            rollout=RolloutConfig(
                rollout=f"{CANDIDATE}:0.5",
                baseline=BASELINE,
                shadow=1,
                rollout_state=state,
                rollout_promote_after=0,
                rollout_max_slowdown=1000,
            ),
        )
        assert isinstance(self.llm.engine, RolloutEngine)
        self.engine = self.llm.engine
        self.shadows = self.engine.shadows
        self.n_tokens = n_tokens
        self.n_requests = 0

    def round(self, *, candidate: int, comparisons: bool) -> float:
        """Tokens per second of four requests, ``candidate`` of them on the candidate."""
        control, engine = self.engine.rollout, self.engine
        assert control is not None
        engine.shadows = self.shadows if comparisons else None
        names = {True: [], False: []}  # type: dict[bool, list[str]]
        while len(names[True]) < candidate or len(names[False]) < 4 - candidate:
            name = f"request-{self.n_requests}"
            self.n_requests += 1
            names[control.plan.takes_candidate(name)].append(name)
        for name in [*names[True][:candidate], *names[False][: 4 - candidate]]:
            prompt = [5 + (31 * self.n_requests + 7 * k) % 90 for k in range(32)]
            params = SamplingParams(max_tokens=self.n_tokens, temperature=0, ignore_eos=True)
            engine.submit(engine.prepare(prompt, params)[0], name)
        start = time.process_time()
        while any(arm.scheduler.running or arm.scheduler.waiting for arm in engine.arms):
            engine.step()
        return 4 * self.n_tokens / (time.process_time() - start)


def measure(model: str, n_tokens: int, n_rounds: int) -> dict[str, Any]:
    """Median tokens per second of each setting, and their ratios to the baseline alone."""
    settings = {
        "baseline alone": {"candidate": 0, "comparisons": False},
        "with comparisons": {"candidate": 0, "comparisons": True},
        "half on the candidate": {"candidate": 2, "comparisons": False},
    }
    rates: dict[str, list[float]] = {name: [] for name in settings}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(model, n_tokens, Path(folder) / "rollout.json")
        for _ in range(2):  # so that something waits to be compared
            bench.round(candidate=0, comparisons=True)
        for i in range(n_rounds):
            for name in list(settings)[:: 1 if i % 2 else -1]:
                rates[name].append(bench.round(**settings[name]))
        n_compared = bench.llm.engine.rollout.evidence.n_compared
        bench.llm.close()
    medians = {name: sorted(found)[len(found) // 2] for name, found in rates.items()}
    alone = medians["baseline alone"]
    return {
        "tokens_per_second": medians,
        "share": {name: rate / alone for name, rate in medians.items()},
        "n_compared": n_compared,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("-n", "--tokens", type=int, default=48)
    parser.add_argument("-r", "--rounds", type=int, default=5)
    options = parser.parse_args()
    print(json.dumps(measure(options.model, options.tokens, options.rounds), indent=2))


if __name__ == "__main__":
    main()
