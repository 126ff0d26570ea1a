"""Where the time of steps goes, as far as a device can tell without being slowed down."""

from __future__ import annotations

from longbow_quarrel.model_runner import ModelRunner

_ATTENTION = "attention"
# A GPU times a kernel only where it has a command buffer to itself, which makes a step of hundreds
# of kernels several times as long: one step of so many keeps that below 1 %.
_GPU_STEPS_PER_TIMED = 512


class OpTimes:
    """Times of every step, or of one step in ``steps_per_timed``.

    Args:
        steps_per_timed: by default 1 on the CPU, where it is one reading of the clock per stage.
    """

    def __init__(self, runner: ModelRunner, steps_per_timed: int | None = None) -> None:
        default = 1 if runner.device.name == "cpu" else _GPU_STEPS_PER_TIMED
        self._runner = runner
        self._every = steps_per_timed or default
        self._n_steps = 0
        self._is_timing = True
        self._before: dict[str, float] = {}  # of timed steps that the device has forgotten
        self._attention_seconds = 0.0
        runner.executable.set_profiling(True)

    def stepped(self) -> float | None:
        """Seconds in attention of the step that was just computed; None if it was not timed."""
        self._n_steps += 1
        spent = self._attention() if self._is_timing else None
        if self._every > 1:
            self._switch(self._n_steps % self._every == 0)
        return spent

    def seconds(self) -> dict[str, float]:
        """By kind of op, of all timed steps. From any thread."""
        return self._runner.op_seconds() if self._every == 1 else self._before

    def _attention(self) -> float:
        total = self._runner.executable.stage_seconds(_ATTENTION)
        spent, self._attention_seconds = total - self._attention_seconds, total
        return spent

    def _switch(self, on: bool) -> None:
        if self._is_timing:
            new = self._runner.op_seconds()
            kinds = self._before.keys() | new.keys()
            self._before = {k: self._before.get(k, 0.0) + new.get(k, 0.0) for k in sorted(kinds)}
        if on or self._is_timing:
            self._runner.executable.set_profiling(on)
            self._attention_seconds = 0.0
        self._is_timing = on
