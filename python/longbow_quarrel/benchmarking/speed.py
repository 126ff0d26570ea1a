"""Requests over lengths and batches, strategy beside strategy.

Every contender of a cell runs in a process of its own, and rounds go in turns, so that a slow
moment of the machine meets all alike and memory is what one strategy needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from longbow_quarrel.benchmarking.bandwidth import BandwidthMeter
from longbow_quarrel.benchmarking.contender import Contender
from longbow_quarrel.benchmarking.summary import Summary
from longbow_quarrel.benchmarking.worker import Task, Worker


@dataclass(frozen=True)
class Matrix:
    """What is measured.

    Attributes:
        lengths: tokens of a prompt.
        batches: requests that arrive together.
        n_new: tokens generated for each.
        rounds: of every cell.
        cell_tokens: cells with more prompt tokens in all are left out.
    """

    lengths: tuple[int, ...]
    batches: tuple[int, ...]
    n_new: int
    rounds: int
    cell_tokens: int

    @property
    def cells(self) -> list[tuple[int, int]]:
        """(length, batch), the smallest ones first."""
        return [
            (length, batch)
            for length in self.lengths
            for batch in self.batches
            if length * batch <= self.cell_tokens
        ]


@dataclass(frozen=True)
class SpeedRow:
    """One contender in one cell; seconds and bytes.

    Attributes:
        ttft: time to first token, from the arrival.
        itl: between two tokens of a text.
        tpot: mean of a text's gaps.
        e2e: from the arrival to the last token.
        output_rate: generated tokens per second, prefill included; mean of the rounds.
        decode_rate: tokens per second of steps in which every text decoded.
        bytes_per_token: that decoding must read from memory for each token.
        share_of_limit: of the decode rate that the measured memory bandwidth allows.
        peak_resident_bytes: of the process, interpreter and weights included.
        peak_device_bytes: highest ``device_memory_allocated_bytes``: what the ledger was charged.
        kv_capacity_bytes: ``kv_cache_capacity_bytes``: room for the whole cell.
        kv_used_bytes: highest ``kv_cache_used_bytes``: blocks that live texts held.
        preemptions, window_blocks: ``preemptions_total`` and ``kv_cache_evictions_total{window}``
            of all rounds.
        token_hash: of what was generated in the first round.
    """

    contender: str
    length: int
    batch: int
    n_requests: int
    ttft: Summary
    itl: Summary
    tpot: Summary
    e2e: Summary
    output_rate: float
    decode_rate: float
    kv_bytes_per_token: int
    bytes_per_token: float
    share_of_limit: float
    peak_resident_bytes: int
    peak_device_bytes: int
    kv_capacity_bytes: int
    kv_used_bytes: int
    preemptions: int
    window_blocks: int
    token_hash: str


class SpeedBench:
    """Measures contenders on a model.

    Args:
        plugins: files that every process loads.
        meter: sampled before each cell.
        tell: told what is being computed.
    """

    def __init__(
        self,
        model: Path,
        plugins: Sequence[str],
        meter: BandwidthMeter,
        tell: Callable[[str], None],
    ) -> None:
        self._model = model
        self._plugins = list(plugins)
        self._meter = meter
        self._tell = tell

    def run(self, matrix: Matrix, contenders: Sequence[Contender]) -> list[SpeedRow]:
        """Rows of all cells.

        Raises:
            QuarrelError: a contender could not be measured.
        """
        cells = [(cell, self._cell(matrix, *cell, contenders)) for cell in matrix.cells]
        return [
            _row(contender.name, length, batch, found, self._meter.best)
            for (length, batch), results in cells
            for contender, found in zip(contenders, results, strict=True)
        ]

    def _cell(
        self, matrix: Matrix, length: int, batch: int, contenders: Sequence[Contender]
    ) -> list[_Found]:
        self._meter.sample()
        with ExitStack() as stack:
            workers = []
            for contender in contenders:
                config = contender.config.model_copy(
                    update={"prefix_cache_file": None}
                ).model_dump()
                task = Task(str(self._model), config, self._plugins, length, batch, matrix.n_new)
                workers.append(stack.enter_context(Worker(task)))
            found = [_Found(worker.wait_until_ready()) for worker in workers]
            for i in range(matrix.rounds):
                order = list(range(len(workers)))
                for j in order[i % len(order) :] + order[: i % len(order)]:
                    self._tell(f"{contenders[j].name}, {batch} x {length}")
                    found[j].rounds.append(workers[j].run(seed=i + 1))
            for worker, one in zip(workers, found, strict=True):
                one.end = worker.end()
        return found


@dataclass
class _Found:
    """What a worker said of a cell."""

    facts: dict[str, Any]
    rounds: list[dict[str, Any]] = field(default_factory=list)
    end: dict[str, Any] = field(default_factory=dict)

    def peak(self, name: str) -> int:
        return int(max(r["peaks"][name] for r in self.rounds))

    def total(self, name: str) -> int:
        """Of a counter, whatever its own labels; 0 where it was never counted."""
        metrics: dict[str, float] = self.end["metrics"]
        return int(sum(v for k, v in metrics.items() if k.partition("{")[0] == name))


def _row(name: str, length: int, batch: int, found: _Found, bandwidth: float) -> SpeedRow:
    requests = [request for r in found.rounds for request in r["requests"]]
    gaps = [gap for request in requests for gap in request["gaps"]]
    tpots = [sum(r["gaps"]) / len(r["gaps"]) for r in requests]
    rates = [r["decode_rate"] for r in found.rounds if r["decode_rate"]]
    decode_rate = sum(rates) / len(rates) if rates else 0.0
    outputs = [r["n_generated"] / r["seconds"] for r in found.rounds]
    return SpeedRow(
        contender=name,
        length=length,
        batch=batch,
        n_requests=len(requests),
        ttft=Summary.of([r["ttft"] for r in requests]),
        itl=Summary.of(gaps),
        tpot=Summary.of(tpots),
        e2e=Summary.of([r["total"] for r in requests]),
        output_rate=sum(outputs) / len(outputs),
        decode_rate=decode_rate,
        kv_bytes_per_token=found.facts["kv_bytes_per_token"],
        bytes_per_token=found.facts["bytes_per_token"],
        share_of_limit=decode_rate * found.facts["bytes_per_token"] / bandwidth,
        peak_resident_bytes=found.end["peak_resident_bytes"],
        peak_device_bytes=found.peak("device_memory_allocated_bytes"),
        kv_capacity_bytes=found.peak("kv_cache_capacity_bytes"),
        kv_used_bytes=found.peak("kv_cache_used_bytes"),
        preemptions=found.total("preemptions_total"),
        window_blocks=int(found.end["metrics"].get("kv_cache_evictions_total{window}", 0)),
        token_hash=found.rounds[0]["token_hash"],
    )
