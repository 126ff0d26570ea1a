"""Bytes that a step cannot do without: the weights once, and K and V of what is visible."""

from __future__ import annotations

from collections.abc import Iterable

from longbow_quarrel.benchmarking.workload import Workload
from longbow_quarrel.model_runner import ModelRunner


class Traffic:
    """The least memory traffic of a model's steps with its cache's types and masks."""

    def __init__(self, runner: ModelRunner) -> None:
        tensors = {tensor.name: tensor.n_bytes for tensor in runner.file.tensors}
        # Of a table that is not the output matrix too, a step reads single rows.
        table = tensors.get("token_embd.weight", 0) if "output.weight" in tensors else 0
        self.weight_bytes = runner.program.weight_bytes - table
        self._max_step_tokens = runner.max_tokens
        plan = runner.plan
        self._groups = [
            (window, sinks, n_bytes / runner.config.block_size)
            for (window, sinks), n_bytes in zip(plan.masks, plan.block_bytes, strict=True)
        ]

    def step_bytes(self, sequences: Iterable[tuple[int, int]]) -> float:
        """Of one step; ``sequences``: tokens of each after the step, and how many are new."""
        kv = sum(
            self._visible(n_tokens, n_new, window, sinks) * per_token
            for n_tokens, n_new in sequences
            for window, sinks, per_token in self._groups
        )
        return self.weight_bytes + kv

    def bytes_per_token(self, work: Workload) -> float:
        """Bytes that ``work`` has to read for each token it computes."""
        if work.is_decode:
            total = sum(
                self.step_bytes([(work.depth + i + 1, 1)] * work.batch) for i in range(work.n_gen)
            )
        else:
            total = sum(map(self.step_bytes, prefill_steps(work, self._max_step_tokens)))
        return total / (work.batch * work.n_new)

    @staticmethod
    def _visible(n_tokens: int, n_new: int, window: int, sinks: int) -> int:
        return n_tokens if window == 0 else min(n_tokens, window - 1 + n_new + sinks)


def prefill_steps(work: Workload, max_step_tokens: int) -> list[list[tuple[int, int]]]:
    """The chunks of a prompt workload, step by step: (tokens afterwards, new ones) of a sequence.

    Sequences are computed one after the other; a step is filled before the next begins.
    """
    steps: list[list[tuple[int, int]]] = []
    room = 0
    for _ in range(work.batch):
        done = 0
        while done < work.n_prompt:
            if room == 0:
                steps.append([])
                room = max_step_tokens
            n = min(room, work.n_prompt - done)
            done, room = done + n, room - n
            steps[-1].append((work.depth + done, n))
    return steps
