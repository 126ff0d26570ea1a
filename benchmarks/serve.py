"""Load on the HTTP server: faults, speed beside llama-server, shared prompts, long arrivals.

    python benchmarks/serve.py load --seconds 600
    python benchmarks/serve.py compare --llama-server FOLDER/llama-server
    python benchmarks/serve.py prefix
    python benchmarks/serve.py arrival

Each prints one JSON object with its verdict and exits with 1 where a bound is broken. The clients
are this process, the server is another one; both share the machine's cores, as do the clients of
its peer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

sys.path.insert(0, str(Path(__file__).parent))

from serve_client import Answer, Peer, Pieces, ServerProcess, complete, get, sample_memory

_SEED = 7
_PIECES_BEFORE_ARRIVAL = 8  # of every stream
_CHUNKS_ALONE = 5
_ENGINE_LABELS = ("model", "strategy", "device")


def main() -> int:
    arguments = _arguments()
    report, bounds = uvloop.run(_COMMANDS[arguments.command](arguments))
    broken = [name for name, holds in bounds.items() if not holds]
    verdict = f"broken: {', '.join(broken)}" if broken else "all bounds hold"
    print(json.dumps(report | {"bounds": bounds, "verdict": verdict}, indent=2))
    return 1 if broken else 0


# ---- Load and faults ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """A request and the answer that it gets when it is alone."""

    prompt: list[int]
    max_tokens: int
    text: str


@dataclass
class Tally:
    answers: int = 0
    tokens: int = 0
    hung_up: int = 0
    wrong: int = 0
    busy: int = 0  # 429 and 503, which are deliberate
    failed: int = 0


async def load(arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, bool]]:
    """Streaming clients with random lengths, some of whom hang up; little room for K and V."""
    rng = random.Random(_SEED)
    flags = ["--max-num-seqs", str(arguments.max_num_seqs)]
    flags += ["--max-queue", str(arguments.max_queue)]  # so short that some are refused
    flags += ["--kv-cache-memory", arguments.kv_cache_memory]  # so little that some are preempted
    with ServerProcess(arguments.model, arguments.threads, flags) as server:
        tasks = [await _alone(server.port, rng, arguments) for _ in range(arguments.tasks)]
        tally = Tally()
        # Warm: every arena has had its largest step, and the cache is full of texts.
        await _clients(server.port, tasks, tally, arguments.clients, arguments.warm_up)
        memory: list[int] = []
        sampler = asyncio.create_task(sample_memory(server.process.pid, memory))
        started = time.perf_counter()
        await _clients(server.port, tasks, tally, arguments.clients, arguments.seconds)
        seconds = time.perf_counter() - started
        sampler.cancel()
        metrics = await _when_idle(server.port)
        again = [(await _ask(server.port, task)).text == task.text for task in tasks]
    first = statistics.median(memory[: max(1, len(memory) // 10)])
    report = {
        "clients": arguments.clients,
        "seconds": round(seconds, 1),
        **vars(tally),
        "tokens_per_second": round(tally.tokens / seconds, 1),
        "preemptions": _sum(metrics, "preemptions_total"),
        "evictions": _sum(metrics, "kv_cache_evictions_total"),
        "resident_mib_first_last": [round(first / 2**20, 1), round(memory[-1] / 2**20, 1)],
        "resident_growth": round(max(abs(m / first - 1) for m in memory), 4),
    }
    bounds = {
        "every answer equals the one given alone": tally.wrong == 0 and all(again),
        "no failure but deliberate refusals": tally.failed == 0,
        "no block leaked": metrics['quarrel_kv_cache_blocks{state="used"}'] == 0,
        "resident memory within 2 %": report["resident_growth"] <= arguments.memory_bound,
    }
    return report, bounds


async def _alone(port: int, rng: random.Random, arguments: argparse.Namespace) -> Task:
    prompt = _tokens(rng, arguments, rng.randint(1, arguments.longest_prompt))
    max_tokens = rng.randint(1, arguments.longest_answer)
    answer = await complete(port, prompt, max_tokens)
    return Task(prompt, max_tokens, answer.text)


async def _clients(port: int, tasks: list[Task], tally: Tally, n: int, seconds: float) -> None:
    deadline = time.perf_counter() + seconds
    await asyncio.gather(*(_client(port, tasks, tally, i, deadline) for i in range(n)))


async def _client(port: int, tasks: list[Task], tally: Tally, i: int, deadline: float) -> None:
    rng = random.Random(_SEED + 1 + i)
    while time.perf_counter() < deadline:
        task = rng.choice(tasks)
        leave_after = rng.randint(0, task.max_tokens) if rng.random() < 0.25 else None
        answer = await _ask(port, task, leave_after)
        if answer.status in (429, 503):
            tally.busy += 1
            await asyncio.sleep(rng.random())
        elif answer.status != 200 or (not answer.complete and leave_after is None):
            tally.failed += 1
        else:
            tally.answers += 1
            tally.tokens += len(answer.times)
            tally.hung_up += not answer.complete
            right = (
                task.text == answer.text if answer.complete else task.text.startswith(answer.text)
            )
            tally.wrong += not right


async def _ask(port: int, task: Task, leave_after: int | None = None) -> Answer:
    return await complete(port, task.prompt, task.max_tokens, leave_after=leave_after)


async def _when_idle(port: int) -> dict[str, float]:
    for _ in range(100):
        metrics = await _metrics(port)
        if _sum(metrics, "requests_running") + _sum(metrics, "requests_waiting") == 0:
            break
        await asyncio.sleep(0.1)
    return metrics


async def _metrics(port: int) -> dict[str, float]:
    """Samples by name and own labels."""
    samples: dict[str, float] = {}
    for line in (await get(port, "/metrics")).splitlines():
        if line.startswith("#"):
            continue
        name, _, value = line.rpartition(" ")
        stem, _, labels = name.rstrip("}").partition("{")
        own = [
            p for p in labels.split(",") if p.split("=")[0] not in ("model", "strategy", "device")
        ]
        samples[stem + (f"{{{','.join(own)}}}" if any(own) else "")] = float(value)
    return samples


def _sum(metrics: dict[str, float], stem: str) -> float:
    return sum(v for k, v in metrics.items() if k.partition("{")[0] == f"quarrel_{stem}")


# ---- Beside llama-server -----------------------------------------------------------------------


async def compare(arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, bool]]:
    """Clients with prompts of their own, one request after the other."""
    n = arguments.clients
    flags = ["--max-num-seqs", str(n), "--max-num-batched-tokens", str(arguments.chunk)]
    ours: list[dict[str, float]] = []
    theirs: list[dict[str, float]] = []
    for _ in range(arguments.repeats):  # in turns, so that the machine's moods meet both
        with ServerProcess(arguments.model, arguments.threads, flags) as server:
            ours.append(await _speed(server.port, arguments))
        if arguments.llama_server is not None:
            with Peer(arguments.llama_server, arguments.model, arguments.threads, n) as peer:
                theirs.append(await _speed(peer.port, arguments))
    report: dict[str, Any] = {"clients": n, "prompt": arguments.prompt, "new": arguments.new}
    report["longbow-quarrel"] = _medians(ours)
    if not theirs:
        return report, {}
    report["llama-server"] = _medians(theirs)
    mine, other = report["longbow-quarrel"], report["llama-server"]
    report["times_output_tokens"] = round(mine["tokens_per_second"] / other["tokens_per_second"], 2)
    report["times_p99_itl"] = round(mine["itl_p99_ms"] / other["itl_p99_ms"], 2)
    return report, {
        "3 x the output tokens per second": report["times_output_tokens"] >= 3,
        "half the p99 inter-token latency": report["times_p99_itl"] <= 0.5,
    }


async def _speed(port: int, arguments: argparse.Namespace) -> dict[str, float]:
    rng = random.Random(_SEED)
    await complete(port, _tokens(rng, arguments, arguments.prompt), 8)  # warm
    prompts = [
        [_tokens(rng, arguments, arguments.prompt) for _ in range(arguments.requests)]
        for _ in range(arguments.clients)
    ]

    async def client(mine: list[list[int]]) -> list[Answer]:
        return [await complete(port, prompt, arguments.new) for prompt in mine]

    started = time.perf_counter()
    answers = [a for batch in await asyncio.gather(*map(client, prompts)) for a in batch]
    seconds = time.perf_counter() - started
    gaps = sorted(1000 * gap for answer in answers for gap in answer.gaps)
    first = sorted(1000 * answer.ttft for answer in answers)
    assert all(a.n_tokens == arguments.new for a in answers), "an answer is too short"
    return {
        "tokens_per_second": sum(a.n_tokens for a in answers) / seconds,
        "itl_p50_ms": _percentile(gaps, 0.5),
        "itl_p99_ms": _percentile(gaps, 0.99),
        "ttft_p50_ms": _percentile(first, 0.5),
        "ttft_p99_ms": _percentile(first, 0.99),
    }


# ---- A shared prompt, and a long one that arrives ----------------------------------------------


async def prefix(arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, bool]]:
    """Two requests with one long system prompt and different questions."""
    rng = random.Random(_SEED)
    ratios, pairs = [], []
    with ServerProcess(arguments.model, arguments.threads, []) as server:
        await complete(server.port, _tokens(rng, arguments, 64), 4)  # warm
        for _ in range(arguments.repeats):
            shared = _tokens(rng, arguments, arguments.prompt)
            ttfts = [
                (await complete(server.port, shared + _tokens(rng, arguments, 16), 8)).ttft
                for _ in range(2)
            ]
            pairs.append([round(1000 * t, 1) for t in ttfts])
            ratios.append(ttfts[1] / ttfts[0])
    ratio = statistics.median(ratios)
    report = {"shared_tokens": arguments.prompt, "ttft_ms": pairs, "ratio": round(ratio, 3)}
    return report, {"TTFT of the second at most 0.1 x": ratio <= 0.1}


async def arrival(arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, bool]]:
    """A long prompt arrives while streams run: how long do they wait for a token?

    The bound is the time of the prompt's last chunk, the one that attends to most, when it is
    computed alone: the TTFT of a prompt of which everything else is in the prefix cache. The
    longest of all gaps is compared with the longest of several such chunks.
    """
    rng = random.Random(_SEED)
    chunk = arguments.chunk
    length = str(arguments.prompt + 64)
    flags = ["--max-num-batched-tokens", str(chunk), "--max-mixed-prefill-tokens", str(chunk)]
    flags += ["--max-num-seqs", "32", "-c", length]
    with ServerProcess(arguments.model, arguments.threads, flags) as server:
        known = _tokens(rng, arguments, arguments.prompt)
        alone = await complete(server.port, known, 1)
        chunk_seconds = [
            await _last_chunk(server.port, known, _tokens(rng, arguments, chunk))
            for _ in range(_CHUNKS_ALONE)
        ]
        prompts = [_tokens(rng, arguments, 16) for _ in range(arguments.clients)]
        running = [Pieces(_PIECES_BEFORE_ARRIVAL) for _ in prompts]
        streams = [
            asyncio.create_task(
                complete(server.port, p, arguments.new, pieces=pieces, every_token=True)
            )
            for p, pieces in zip(prompts, running, strict=True)
        ]
        await asyncio.gather(*(pieces.come.wait() for pieces in running))
        sent = time.perf_counter()
        long = await complete(server.port, _tokens(rng, arguments, arguments.prompt), 1)
        done = time.perf_counter()
        answers = await asyncio.gather(*streams)
    gaps = [pair for a in answers for pair in zip(a.times[1:], a.gaps, strict=True)]
    calm = [gap for at, gap in gaps if at < sent or at > done]
    during = [gap for at, gap in gaps if sent <= at <= done]
    added = max(during) - statistics.median(calm)
    bound = max(chunk_seconds)
    report = {
        "streams": arguments.clients,
        "prompt": arguments.prompt,
        "chunk": chunk,
        "prefill_alone_seconds": round(alone.ttft, 2),
        "prefill_beside_streams_seconds": round(long.ttft, 2),
        "last_chunk_alone_ms": [round(1000 * s, 1) for s in chunk_seconds],
        "gap_ms_calm_median": round(1000 * statistics.median(calm), 1),
        "gap_ms_during_median_max": [
            round(1000 * statistics.median(during), 1),
            round(1000 * max(during), 1),
        ],
        "added_ms": round(1000 * added, 1),
        "gaps_measured": len(during),
    }
    return report, {"at most one chunk's time is added": added <= bound}


async def _last_chunk(port: int, known: list[int], new: list[int]) -> float:
    """Seconds of a chunk at the end of a prompt whose other chunks are known."""
    answer = await complete(port, known[: len(known) - len(new)] + new, 1)
    return answer.ttft


def _tokens(rng: random.Random, arguments: argparse.Namespace, n: int) -> list[int]:
    """A prompt that nobody has sent before; special tokens lie outside of the range."""
    return rng.choices(range(min(1000, arguments.largest_id // 2), arguments.largest_id), k=n)


def _percentile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {k: round(statistics.median(run[k] for run in runs), 2) for k in runs[0]}


_COMMANDS = {"load": load, "compare": compare, "prefix": prefix, "arrival": arrival}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("-m", "--model", default="smollm2-135m")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--largest-id", type=int, default=20000, help="of tokens in prompts")
    commands = parser.add_subparsers(dest="command", required=True)
    options: dict[str, dict[str, Any]] = {
        "load": {
            **{"clients": 64, "seconds": 600.0, "warm_up": 30.0, "tasks": 48},
            **{"longest_prompt": 400, "longest_answer": 120, "memory_bound": 0.02},
            **{"max_num_seqs": 16, "max_queue": 32, "kv_cache_memory": "72MiB"},
        },
        "compare": {
            **{"clients": 16, "prompt": 128, "new": 128, "requests": 2, "repeats": 3},
            **{"chunk": 512, "llama_server": Path},
        },
        "prefix": {"prompt": 1500, "repeats": 5},
        "arrival": {"clients": 16, "prompt": 8000, "chunk": 512, "new": 120},
    }
    for name, values in options.items():
        command = commands.add_parser(name, help=_COMMANDS[name].__doc__)
        for key, default in values.items():
            kind = default if isinstance(default, type) else type(default)
            flag = f"--{key.replace('_', '-')}"
            command.add_argument(flag, type=kind, default=None if kind is default else default)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
