"""Speed beside llama.cpp: same file, same threads, same run, turn about.

    python benchmarks/compare_llamacpp.py MODEL.gguf --llamacpp BIN_FOLDER --json out.json

BIN_FOLDER holds llama-bench, llama-batched-bench and llama-completion, built natively. Without it
only our side runs. Every row is the median of ``--repeat`` rounds after a warm-up, in tokens per
second; rounds alternate between the two, so that noise of the machine meets both. The row of the
start is one over the seconds of a whole process, ours with its interpreter. The limit of decoding
is the bandwidth measured in the same run over the bytes that one step must read.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from longbow_quarrel import EngineConfig, _core
from longbow_quarrel.benchmarking import (
    StepBench,
    Workload,
    bench_config,
    describe_machine,
    memory_bandwidth,
)
from longbow_quarrel.model_runner import ModelRunner

PROMPT = 512  # tokens of a prefill row
BATCH_PROMPT = 128  # tokens before every sequence of a batched row
START_PROMPT = "The cat sat on the"


@dataclass(frozen=True)
class Work:
    """One row: ``n_tokens`` computed after ``depth`` others, for ``batch`` sequences."""

    name: str
    kind: str  # "prefill", "decode" or "start"
    n_tokens: int
    depth: int = 0
    batch: int = 1

    @property
    def workload(self) -> Workload:
        n = self.n_tokens
        n_prompt, n_gen = (n, 0) if self.kind == "prefill" else (0, n)
        return Workload(n_prompt, n_gen, self.depth, self.batch)


@dataclass
class Row:
    """Tokens per second of both; ``limit`` only where memory bandwidth sets one."""

    work: Work
    ours: float
    llamacpp: float | None
    ratio: float | None
    limit: float | None
    share_of_limit: float | None
    output_hash: str


class Ours:
    """The model on the CPU device, driven step by step."""

    def __init__(self, path: Path, n_threads: int, works: list[Work], isa: str) -> None:
        self._arguments = ["-m", str(path), "-t", str(n_threads)]
        started = time.perf_counter()
        config = bench_config(
            _core.GGUFFile(str(path)),
            EngineConfig(device="cpu", n_threads=n_threads, cpu_isa=isa),
            [work.workload for work in works if work.kind != "start"],
        )
        self._bench = StepBench(ModelRunner(path, config))
        self.isa = describe_machine(self._bench.runner.device).isa
        self.load_seconds = time.perf_counter() - started

    def measure(self, work: Work) -> tuple[float, str]:
        """Tokens per second of one round and a hash of the last logits."""
        if work.kind == "start":
            command = [sys.executable, "-m", "longbow_quarrel.cli", "generate", START_PROMPT]
            return start_speed([*command, *self._arguments, "-n", "1", "--temp", "0"]), "-"
        with self._bench.prepared(work.workload) as batch:
            seconds = batch.run()
            return work.batch * work.n_tokens / seconds, batch.result_hash

    def bytes_per_token(self, work: Work) -> float:
        """What decoding must read for each token: weights, and the cache of every sequence."""
        return self._bench.traffic.bytes_per_token(work.workload)


def start_speed(command: list[str]) -> float:
    """One over the seconds that a process takes which generates one token."""
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    return 1 / (time.perf_counter() - started)


RESIDENT = """
import json, sys
from longbow_quarrel import LLM, EngineConfig, SamplingParams
config = EngineConfig(n_threads=int(sys.argv[2]), context_length=1024, max_num_seqs=1)
llm = LLM(sys.argv[1], config=config)
prompt = [5 + i % 100 for i in range(1000)]
llm.generate([prompt], SamplingParams(max_tokens=16, ignore_eos=True))
resident = next(x for x in open("/proc/self/status") if x.startswith("VmRSS")).split()[1]
kinds = llm.stats()["memory"]["by_kind"]
print(json.dumps({"resident_bytes": int(resident) * 1024, **kinds}))
"""


def resident_memory(model: Path, n_threads: int) -> dict[str, int]:
    """What a process holds whose KV cache is full, and what the ledger says of it, in bytes."""
    command = [sys.executable, "-c", RESIDENT, str(model), str(n_threads)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    memory: dict[str, int] = json.loads(out)
    memory["beyond_weights_and_kv"] = memory["resident_bytes"] - memory["weights"] - memory["kv"]
    return memory


class LlamaCpp:
    """llama.cpp's own benchmarks."""

    def __init__(self, folder: Path, model: Path, n_threads: int) -> None:
        self._folder = folder
        self._common = ["-m", str(model), "-t", str(n_threads)]

    def _run(self, binary: str, *arguments: str) -> str:
        command = [str(self._folder / binary), *self._common, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def measure(self, work: Work) -> float:
        n = str(work.n_tokens)
        if work.kind == "start":
            command = [str(self._folder / "llama-completion"), *self._common, "-p", START_PROMPT]
            return start_speed([*command, "-n", "1", "-no-cnv", "--temp", "0"])
        if work.batch > 1:
            context = str(work.batch * (work.depth + work.n_tokens))
            lines = self._run(
                *("llama-batched-bench", "-npp", str(work.depth), "-ntg", n),
                *("-npl", str(work.batch), "-c", context, "--output-format", "jsonl"),
            ).splitlines()
            return float(json.loads(next(x for x in lines if x.startswith("{")))["speed_tg"])
        counts = ["-p", n, "-n", "0"] if work.kind == "prefill" else ["-p", "0", "-n", n]
        out = self._run("llama-bench", *counts, "-d", str(work.depth), "-r", "1", "-o", "json")
        return float(json.loads(out)[0]["avg_ts"])


def plan(depths: list[int], n_decode: int, prompt: int) -> list[Work]:
    """The rows of the comparison."""
    rows = [
        Work("process start to first token", "start", 1),
        Work(f"prefill {prompt}", "prefill", prompt),
        Work(f"decode {n_decode}", "decode", n_decode),
        Work(f"batched decode, 16 x {n_decode // 4}", "decode", n_decode // 4, BATCH_PROMPT, 16),
    ]
    for depth in depths:
        rows += [
            Work(f"decode at depth {depth}", "decode", n_decode // 4, depth),
            Work(f"prefill {prompt} at depth {depth}", "prefill", prompt, depth),
        ]
    return rows


def compare(
    ours: Ours, theirs: LlamaCpp | None, works: list[Work], repeat: int, bandwidth: float
) -> list[Row]:
    """Run every row ``repeat`` times, turn about."""
    rows = []
    for work in works:
        speeds, others, hashes = [], [], set()
        ours.measure(work)  # warm
        for _ in range(repeat):
            speed, digest = ours.measure(work)
            speeds.append(speed)
            hashes.add(digest)
            if theirs is not None:
                others.append(theirs.measure(work))
        if len(hashes) != 1:
            raise RuntimeError(f"{work.name}: the output changed between rounds: {sorted(hashes)}")
        median = statistics.median(speeds)
        other = statistics.median(others) if others else None
        limit = bandwidth / ours.bytes_per_token(work) if work.kind == "decode" else None
        rows.append(
            Row(
                work,
                median,
                other,
                median / other if other else None,
                limit,
                median / limit if limit else None,
                hashes.pop(),
            )
        )
        print(format_row(rows[-1]), flush=True)
    return rows


def format_row(row: Row) -> str:
    other = f"{row.llamacpp:9.1f} {row.ratio:6.2f}" if row.llamacpp else f"{'-':>9} {'-':>6}"
    limit = f"{row.limit:9.1f} {row.share_of_limit:6.0%}" if row.limit else f"{'-':>9} {'-':>6}"
    return f"{row.work.name:32} {row.ours:9.1f} {other} {limit}  {row.output_hash}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--llamacpp", type=Path, help="folder of llama.cpp's binaries")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--depth", type=int, nargs="*", default=[4096], help="tokens, any number")
    parser.add_argument("--decode", type=int, default=128, help="tokens of the decode row")
    parser.add_argument("--prompt", type=int, default=PROMPT, help="tokens of a prefill row")
    parser.add_argument("--rows", default="", help="only rows whose name contains this")
    parser.add_argument("--isa", default="auto", help="instruction set of our side")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)

    planned = plan(options.depth, options.decode, min(options.prompt, PROMPT))
    works = [work for work in planned if options.rows in work.name]
    if not works:
        parser.error(f"no row has {options.rows!r} in its name")
    ours = Ours(options.model, options.threads, works, options.isa)
    theirs = None
    if options.llamacpp is not None:
        theirs = LlamaCpp(options.llamacpp, options.model, options.threads)
    bandwidth = memory_bandwidth(options.threads)
    memory = resident_memory(options.model, options.threads)
    print(
        f"{options.model.name}, {options.threads} threads, {ours.isa}, "
        f"{bandwidth / 1e9:.1f} GB/s, loaded in {ours.load_seconds:.2f} s, resident memory beyond "
        f"weights and KV cache {memory['beyond_weights_and_kv'] / 1e6:.0f} MB"
    )
    print(
        f"{'tokens/s':32} {'ours':>9} {'llama.cpp':>9} {'ratio':>6} {'limit':>9} {'share':>6}  hash"
    )
    rows = compare(ours, theirs, works, options.repeat, bandwidth)
    if options.json is not None:
        record = {
            "model": options.model.name,
            "n_threads": options.threads,
            "isa": ours.isa,
            "bandwidth_bytes_per_second": bandwidth,
            "load_seconds": ours.load_seconds,
            "memory": memory,
            "rows": [asdict(row) for row in rows],
        }
        options.json.write_text(json.dumps(record, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
