"""What the CPU device takes, to the byte, and that a step takes no more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from longbow_quarrel import _core, models
from longbow_quarrel.cache import make_cache
from longbow_quarrel.errors import OutOfMemoryError

MODELS = ["llama3", "mistral", "qwen2", "qwen3", "gemma3", "granite"]
LIMITS = {"max_tokens": 70, "max_selected_rows": 20, "max_context_tokens": 2000}


def _program(path: Path) -> tuple[models.Hyperparameters, _core.Program, _core.GGUFFile]:
    file = _core.GGUFFile(str(path))
    return *models.record(file), file


def _runner(
    device: _core.CpuDevice, program: _core.Program, ledger: _core.MemoryLedger, vocab_size: int
) -> tuple[_core.KVCache, _core.Executable, _core.StepRunner]:
    windows = [group.window for group in program.groups]
    counts = [80] * len(windows)
    cache = make_cache("paged", groups=windows, block_size=16, n_blocks=counts)
    storage = device.allocate_kv(program, 16, counts, "F32", "F32", ledger)
    executable = device.compile(program, ledger=ledger, **LIMITS)
    return cache, executable, _core.StepRunner(executable, storage, cache, vocab_size)


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("name", MODELS)
def test_needs_are_exact(name: str, n_threads: int, tiny_model_path) -> None:
    _, program, _file = _program(tiny_model_path(name))
    device = _core.CpuDevice(n_threads)
    weights, scratch = device.memory_needs(program, **LIMITS)
    ledger = _core.MemoryLedger(weights + scratch)
    executable = device.compile(program, ledger=ledger, **LIMITS)
    used = ledger.used_by_kind()
    assert (used["weights"], used["scratch"]) == (weights, scratch)
    del executable
    assert ledger.used_bytes == 0

    short = _core.MemoryLedger(weights + scratch - 1)
    with pytest.raises(OutOfMemoryError, match="raise memory_limit"):
        device.compile(program, ledger=short, **LIMITS)
    assert short.used_bytes == 0


@pytest.mark.parametrize("name", ["llama3", "gemma3"])
def test_a_step_takes_nothing(name: str, tiny_model_path) -> None:
    """Prompts in chunks, decodes far into the context, on two threads: attention is split too."""
    parameters, program, _file = _program(tiny_model_path(name))
    ledger = _core.MemoryLedger(1 << 30)
    cache, _executable, runner = _runner(_core.CpuDevice(2), program, ledger, parameters.vocab_size)
    idle = ledger.used_by_kind()
    sequence = cache.match_prefix(np.zeros(1, np.int32), 1200).sequence
    for n in [70] * 15 + [1, 1, 2, 5]:
        assert cache.reserve(sequence, n)
        ids = np.arange(n, dtype=np.int32)
        runner.run(np.array([sequence]), np.array([0, n], np.int32), ids, ids[-20:])
        cache.commit(sequence, ids)
    assert ledger.used_by_kind() == idle
    assert ledger.peak_bytes == ledger.used_bytes


def test_more_rows_than_planned_are_paid_for_and_given_back(tiny_model_path) -> None:
    parameters, program, _file = _program(tiny_model_path("llama3"))
    ledger = _core.MemoryLedger(1 << 30)
    cache, executable, runner = _runner(_core.CpuDevice(2), program, ledger, parameters.vocab_size)
    idle = ledger.used_bytes
    ids = np.arange(70, dtype=np.int32)

    def logits(rows: np.ndarray) -> bytes:
        sequence = cache.match_prefix(ids, 70).sequence
        assert cache.reserve(sequence, 70)
        starts = np.array([0, 70], np.int32)
        found = runner.run(np.array([sequence]), starts, ids, rows).tobytes()
        cache.release(sequence)
        return found

    every = logits(ids)
    assert ledger.used_bytes > idle
    executable.shrink()
    assert ledger.used_bytes == idle
    row = 4 * parameters.vocab_size
    assert b"".join(logits(ids[i : i + 10]) for i in range(0, 70, 10)) == every
    assert len(every) == 70 * row
