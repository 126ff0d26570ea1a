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
import hashlib
import json
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from longbow_quarrel import _core, models

BLOCK_SIZE = 16
PROMPT = 512  # tokens of a prefill row
BATCH_PROMPT = 128  # tokens before every sequence of a batched row
KV_TYPE = "F16"
START_PROMPT = "The cat sat on the"

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Work:
    """One row: ``n_tokens`` computed after ``depth`` others, for ``batch`` sequences."""

    name: str
    kind: str  # "prefill", "decode" or "start"
    n_tokens: int
    depth: int = 0
    batch: int = 1


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

    def __init__(self, path: Path, n_threads: int, capacity: int, isa: str) -> None:
        self._arguments = ["-m", str(path), "-t", str(n_threads)]
        started = time.perf_counter()
        parameters, self.program = models.record(_core.GGUFFile(str(path)))
        self.vocab_size = parameters.vocab_size
        ledger = _core.MemoryLedger(1 << 40)
        device = _core.CpuDevice(n_threads, isa)
        self.isa = device.isa
        executable = device.compile(self.program, PROMPT, ledger)
        n_groups = len(self.program.groups)
        n_blocks = capacity // BLOCK_SIZE + 1
        storage = device.allocate_kv(
            self.program, BLOCK_SIZE, [n_blocks] * n_groups, KV_TYPE, KV_TYPE, ledger
        )
        block_bytes = device.kv_block_bytes(self.program, BLOCK_SIZE, KV_TYPE, KV_TYPE)
        self.kv_bytes_per_token = sum(block_bytes) // BLOCK_SIZE
        self.cache = _core.ContiguousCache(n_groups, BLOCK_SIZE, n_blocks, False)
        self.runner = _core.StepRunner(executable, storage, self.cache, self.vocab_size)
        self.load_seconds = time.perf_counter() - started

    def step(self, sequences: list[int], tokens: list[Ids]) -> npt.NDArray[np.float32]:
        """Compute these tokens of each sequence; logits of the last one of each."""
        for sequence, ids in zip(sequences, tokens, strict=True):
            if not self.cache.reserve(sequence, len(ids)).ok:
                raise RuntimeError("the cache of this benchmark is too small for its work")
        ends = np.cumsum([len(ids) for ids in tokens], dtype=np.int32)
        starts = np.concatenate([np.zeros(1, np.int32), ends])
        logits = self.runner.run(
            np.array(sequences, np.int64), starts, np.concatenate(tokens), ends - 1
        )
        for sequence, ids in zip(sequences, tokens, strict=True):
            self.cache.commit(sequence, ids)
        return logits

    def measure(self, work: Work) -> tuple[float, str]:
        """Tokens per second and a hash of the last logits."""
        if work.kind == "start":
            command = [sys.executable, "-m", "longbow_quarrel.cli", "generate", START_PROMPT]
            return start_speed([*command, *self._arguments, "-n", "1", "--temp", "0"]), "-"
        random = np.random.default_rng(0)
        total = work.depth + work.n_tokens

        def ids(n: int) -> Ids:
            return random.integers(0, self.vocab_size, n).astype(np.int32)

        sequences = [self.cache.match_prefix(ids(1), total + 1).sequence for _ in range(work.batch)]
        for sequence in sequences:
            for first in range(0, work.depth, PROMPT):
                self.step([sequence], [ids(min(PROMPT, work.depth - first))])
        step_size = work.n_tokens if work.kind == "prefill" else 1
        started = time.perf_counter()
        for _ in range(work.n_tokens // step_size):
            logits = self.step(sequences, [ids(step_size) for _ in sequences])
        seconds = time.perf_counter() - started
        digest = hashlib.sha256(np.ascontiguousarray(logits).tobytes()).hexdigest()[:12]
        for sequence in sequences:
            self.cache.release(sequence)
        return work.batch * work.n_tokens / seconds, digest

    def step_bytes(self, work: Work) -> int:
        """What one decode step has to read: all weights, and the cache of every sequence."""
        tokens = work.depth + work.n_tokens // 2
        return int(self.program.weight_bytes + work.batch * tokens * self.kv_bytes_per_token)


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


def memory_bandwidth(n_threads: int, mebibytes: int = 256) -> float:
    """Bytes per second that all threads together read from memory, best of five."""
    data = np.ones(mebibytes << 17, np.int64)
    parts = np.array_split(data, n_threads)
    best = 0.0
    with ThreadPoolExecutor(n_threads) as pool:
        for _ in range(5):
            started = time.perf_counter()
            list(pool.map(np.sum, parts))
            best = max(best, data.nbytes / (time.perf_counter() - started))
    return best


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
        limit = work.batch * bandwidth / ours.step_bytes(work) if work.kind == "decode" else None
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
    parser.add_argument("--isa", default="auto", help="instruction set of our side")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)

    works = plan(options.depth, options.decode, min(options.prompt, PROMPT))
    capacity = sum(BLOCK_SIZE + w.batch * (w.depth + w.n_tokens + BLOCK_SIZE) for w in works)
    ours = Ours(options.model, options.threads, capacity, options.isa)
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
