"""Times the steps of a model as llama-bench does: no scheduler, no sampling, random tokens.

The tokens of a workload are always the same, so its result hash is the same for every cache
strategy that computes the same attention, and for every number of threads.
"""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longbow_quarrel import _core
from longbow_quarrel.benchmarking.traffic import Traffic, prefill_steps
from longbow_quarrel.benchmarking.workload import Workload
from longbow_quarrel.config import EngineConfig
from longbow_quarrel.errors import OutOfMemoryError
from longbow_quarrel.memory_plan import Planner
from longbow_quarrel.model_runner import ModelRunner

_HASH_DIGITS = 12


@dataclass(frozen=True)
class Measurement:
    """What the rounds of a workload gave.

    Attributes:
        seconds: of every round.
        bytes_per_token: that had to be read from memory for each token, see :class:`Traffic`.
        result_hash: of the logits of every sequence's last token; equal in all rounds.
    """

    work: Workload
    seconds: tuple[float, ...]
    bytes_per_token: float
    result_hash: str

    @property
    def samples(self) -> list[float]:
        """Tokens per second of every round, all sequences together."""
        n_tokens = self.work.batch * self.work.n_new
        return [n_tokens / s for s in self.seconds]

    @property
    def tokens_per_second(self) -> float:
        """Mean of the rounds."""
        return statistics.mean(self.samples)

    @property
    def deviation(self) -> float:
        """Sample standard deviation of the rounds, in tokens per second; 0 of a single one."""
        return statistics.stdev(self.samples) if len(self.samples) > 1 else 0.0

    @property
    def best(self) -> float:
        """Tokens per second of the quickest round."""
        return max(self.samples)

    def share_of_limit(self, bandwidth: float) -> float:
        """Of the speed that ``bandwidth``, in bytes per second, allows; 1 is the limit."""
        return self.tokens_per_second * self.bytes_per_token / bandwidth


def bench_config(
    file: _core.GGUFFile, config: EngineConfig, works: Iterable[Workload]
) -> EngineConfig:
    """``config`` with a cache in which each of ``works`` fits, and nothing is reused.

    Raises:
        UsageError: the configuration makes no sense for this model.
    """
    works = list(works)
    return config_for_texts(
        file, config, max(w.length for w in works), max(w.batch for w in works), reuse=False
    )


def config_for_texts(
    file: _core.GGUFFile, config: EngineConfig, length: int, n_texts: int, *, reuse: bool
) -> EngineConfig:
    """``config`` with room for ``n_texts`` texts of ``length`` tokens at the same time."""
    sized = config.model_copy(
        update={
            "context_length": max(length, n_texts),
            "max_num_seqs": n_texts,
            # A decode step has a token of every text.
            "max_num_batched_tokens": max(config.max_num_batched_tokens, n_texts),
            "prefix_caching": reuse,
            "prefix_cache_file": None,
        }
    )
    return sized.model_copy(update={"kv_cache_memory": Planner(file, sized).kv_bytes_in_full()})


class StepBench:
    """Measures workloads on a model that is idle, see :func:`bench_config`."""

    def __init__(self, runner: ModelRunner) -> None:
        self.runner = runner
        self.traffic = Traffic(runner)

    def measure(self, work: Workload, rounds: int = 5) -> Measurement:
        """Run ``work`` once to warm up, then ``rounds`` times.

        Raises:
            OutOfMemoryError: it does not fit in the cache.
        """
        with self.prepared(work) as batch:
            batch.run()
            seconds = [batch.run() for _ in range(rounds)]
            return self.measurement(work, seconds, batch.result_hash)

    def measurement(self, work: Workload, seconds: Sequence[float], digest: str) -> Measurement:
        """Of rounds that the caller has timed with :meth:`prepared`."""
        return Measurement(work, tuple(seconds), self.traffic.bytes_per_token(work), digest)

    @contextmanager
    def prepared(self, work: Workload) -> Iterator[TimedBatch]:
        """The sequences of ``work``, filled up to its depth; for rounds in any order."""
        batch = TimedBatch(self.runner, work)
        try:
            yield batch
        finally:
            batch.close()


class TimedBatch:
    """Sequences that go on from their depth again and again; made by :class:`StepBench`.

    Attributes:
        result_hash: of the last round's logits.
    """

    def __init__(self, runner: ModelRunner, work: Workload) -> None:
        self._runner = runner
        self._cache = runner.cache
        self._work = work
        self._tokens = work.tokens(runner.parameters.vocab_size)
        self.result_hash = ""
        self._sequences: list[int] = []
        try:
            for row in self._tokens:
                sequence = self._cache.match_prefix(row[:1], work.length).sequence
                self._sequences.append(sequence)
                runner.prefill(sequence, row[: work.depth])
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the blocks back."""
        while self._sequences:
            self._cache.release(self._sequences.pop())

    def run(self) -> float:
        """One round: seconds of computing what follows the depth.

        Raises:
            OutOfMemoryError: there is no room in the cache.
        """
        self._go_back()
        run = self._decode if self._work.is_decode else self._prefill
        started = time.perf_counter()
        last = run()
        seconds = time.perf_counter() - started
        self.result_hash = hashlib.sha256(last.tobytes()).hexdigest()[:_HASH_DIGITS]
        return seconds

    def _go_back(self) -> None:
        depth = self._work.depth
        for sequence, row in zip(self._sequences, self._tokens, strict=True):
            if self._cache.n_tokens(sequence) > depth:
                held = self._cache.trim(sequence, depth)
                # A sliding window may have let go of what was visible at that depth.
                self._runner.prefill(sequence, row[held:depth])

    def _decode(self) -> NDArray[np.float32]:
        rows = list(range(self._work.batch))
        for position in range(self._work.depth, self._work.length):
            column = [row[position : position + 1] for row in self._tokens]
            self._reserve(self._sequences, [1] * len(rows))
            logits = self._runner.step(self._sequences, column, rows, len(rows))
        return np.ascontiguousarray(logits)

    def _prefill(self) -> NDArray[np.float32]:
        last: list[NDArray[np.float32]] = []
        for places in self._prefill_steps():
            sequences = [self._sequences[i] for i, _, _ in places]
            parts = [self._tokens[i, first:end] for i, first, end in places]
            ends = np.cumsum([len(part) for part in parts])
            wanted = [
                int(row) - 1
                for row, (_, _, end) in zip(ends, places, strict=True)
                if end == self._work.length
            ]
            self._reserve(sequences, [len(part) for part in parts])
            logits = self._runner.step(sequences, parts, wanted)
            last.append(logits.copy())
        return np.concatenate(last)

    def _prefill_steps(self) -> Iterator[list[tuple[int, int, int]]]:
        """(sequence, first token, end) of each chunk, step by step."""
        i = 0
        for step in prefill_steps(self._work, self._runner.max_tokens):
            places = []
            for end, n in step:
                places.append((i, end - n, end))
                i += end == self._work.length
            yield places

    def _reserve(self, sequences: Sequence[int], counts: Sequence[int]) -> None:
        for sequence, n in zip(sequences, counts, strict=True):
            room = self._cache.reserve(sequence, n)
            if not room:
                raise OutOfMemoryError(
                    f"{self._work.batch} x {self._work.length} tokens do not fit in the KV cache "
                    f"({room.reason}); raise kv_cache_memory."
                )
