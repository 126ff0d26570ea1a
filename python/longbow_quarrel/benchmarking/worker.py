"""One contender in a process of its own, so that its memory is its own.

``python -m longbow_quarrel.benchmarking.worker`` reads a line of JSON with what to load and answers
with a line; then every line asks for a round and is answered with its times. The last line of the
input is followed by one with the process's memory and the metrics.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from longbow_quarrel.errors import QuarrelError

_WARM_UP_TOKENS = 16


@dataclasses.dataclass(frozen=True)
class Task:
    """What a worker does.

    Attributes:
        config: an ``EngineConfig`` as plain data.
        length: tokens of a prompt.
        n_new: tokens that are generated.
    """

    model: str
    config: dict[str, Any]
    plugins: list[str]
    length: int
    batch: int
    n_new: int


class Worker:
    """A process that runs a :class:`Task`; the caller's half.

    Raises:
        QuarrelError: the process could not do what it was asked.
    """

    def __init__(self, task: Task) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "longbow_quarrel.benchmarking.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._ask(dataclasses.asdict(task))

    def wait_until_ready(self) -> dict[str, Any]:
        """What the model needs and holds."""
        return self._answer()

    def run(self, seed: int) -> dict[str, Any]:
        """One round with prompts of this seed: a ``Round`` as plain data."""
        self._ask({"seed": seed})
        return self._answer()

    def end(self) -> dict[str, Any]:
        """Peak memory and metrics; the process is over then."""
        self._stdin.close()
        answer = self._answer()
        self._process.wait()
        return answer

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: object, __: TracebackType | None
    ) -> None:
        self._process.kill()  # nothing happens to one that has ended
        self._process.wait()
        for stream in (self._stdin, self._stdout):
            stream.close()

    @property
    def _stdin(self) -> IO[str]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def _stdout(self) -> IO[str]:
        assert self._process.stdout is not None
        return self._process.stdout

    def _ask(self, question: dict[str, Any]) -> None:
        print(json.dumps(question), file=self._stdin, flush=True)

    def _answer(self) -> dict[str, Any]:
        line = self._stdout.readline()
        if not line:
            raise QuarrelError(
                f"A measuring process ended with code {self._process.wait()}; run it again, with "
                "fewer texts or shorter ones if memory was short."
            )
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise QuarrelError(answer["error"])
        return answer


def main() -> int:
    """The process's half: answers lines of standard input on standard output."""
    # Whatever a plug-in prints must not end up among the answers.
    answers, sys.stdout = sys.stdout, sys.stderr

    def answer(data: dict[str, Any]) -> None:
        print(json.dumps(data), file=answers, flush=True)

    try:
        _serve(Task(**json.loads(sys.stdin.readline())), answer)
    except QuarrelError as e:
        answer({"error": str(e)})
    except Exception as e:
        text = " ".join(str(e).split()).rstrip(".")
        answer({"error": f"A measuring process failed: {type(e).__name__}: {text}."})
    return 0


def _serve(task: Task, answer: Any) -> None:
    from longbow_quarrel import _core
    from longbow_quarrel.benchmarking.load import Loader
    from longbow_quarrel.benchmarking.measure import config_for_texts
    from longbow_quarrel.benchmarking.process_memory import peak_resident_bytes, resident_bytes
    from longbow_quarrel.benchmarking.traffic import Traffic
    from longbow_quarrel.benchmarking.workload import Workload
    from longbow_quarrel.config import EngineConfig
    from longbow_quarrel.engine import Engine
    from longbow_quarrel.plugins import load_plugins

    load_plugins(task.plugins)
    before = resident_bytes()
    file = _core.GGUFFile(task.model)
    base = EngineConfig(**task.config)
    config = config_for_texts(file, base, task.length + task.n_new, task.batch, reuse=False)
    engine = Engine(Path(task.model), config)
    loader = Loader(engine, "benchmark")
    loader.run(_prompts(0, min(task.length, _WARM_UP_TOKENS), task.batch, engine.vocab_size), 2)
    decode = Workload(0, task.n_new, task.length, task.batch)
    answer(
        {
            "kv_bytes_per_token": engine.runner.kv_bytes_per_token,
            "bytes_per_token": Traffic(engine.runner).bytes_per_token(decode),
        }
    )
    for line in sys.stdin:
        seed = int(json.loads(line)["seed"])
        prompts = _prompts(seed, task.length, task.batch, engine.vocab_size)
        answer(dataclasses.asdict(loader.run(prompts, task.n_new)))
    answer(
        {
            "resident_bytes_before": before,
            "peak_resident_bytes": peak_resident_bytes(),
            "metrics": loader.scrape(),
        }
    )


def _prompts(seed: int, length: int, batch: int, vocab_size: int) -> Sequence[Any]:
    random = np.random.default_rng([seed, length, batch])
    return list(random.integers(0, vocab_size, (batch, length), np.int32))


if __name__ == "__main__":
    sys.exit(main())
