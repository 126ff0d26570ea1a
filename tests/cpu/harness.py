"""Runs one op, or a few, through the CPU device: inputs go in as an embedding table's rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf.quants import quantize

import gguf
from data.random_k_quants import LAYOUTS, random_k_quant
from longbow_quarrel import _core

F32 = npt.NDArray[np.float32]
BLOCK_SIZE = 16


def random_weight(dtype: str, n_out: int, n_in: int, seed: int) -> npt.NDArray[np.uint8]:
    """A matrix in the file's format: [n_out, bytes per row]."""
    random = np.random.RandomState(seed)
    kind = gguf.GGMLQuantizationType[dtype]
    if kind in LAYOUTS:
        return random_k_quant(kind, (n_out, n_in), 1.0, random)
    values = random.randn(n_out, n_in).astype(np.float32)
    if dtype == "F32":
        return values.view(np.uint8)
    return np.array(quantize(values, kind)).view(np.uint8).reshape(n_out, -1)


def write_model(path: Path, tensors: dict[str, tuple[str, npt.NDArray[np.uint8]]]) -> Path:
    """A GGUF file with these tensors: name -> (dtype, rows of bytes)."""
    writer = gguf.GGUFWriter(path, "test")
    for name, (dtype, data) in tensors.items():
        kind = gguf.GGMLQuantizationType[dtype]
        raw = data.view(np.float32) if dtype == "F32" else data
        writer.add_tensor(name, raw, raw_dtype=None if dtype == "F32" else kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


class Runner:
    """A recorded program on one instruction set; row i of the table ``x`` is token i."""

    def __init__(
        self,
        path: Path,
        record: Callable[[_core.ProgramBuilder, _core.GGUFFile], _core.Program],
        kv_layers: list[_core.KVLayer],
        *,
        isa: str = "auto",
        n_threads: int = 1,
        kv_dtype: str = "F32",
        capacity: int = 64,
        max_tokens: int = 64,
    ) -> None:
        file = _core.GGUFFile(str(path))
        program = record(_core.ProgramBuilder(kv_layers), file)
        ledger = _core.MemoryLedger(1 << 30)
        device = _core.CpuDevice(n_threads, isa)
        executable = device.compile(program, max_tokens, ledger)
        n_blocks = capacity // BLOCK_SIZE + 1
        self._storage = device.allocate_kv(
            program,
            BLOCK_SIZE,
            [n_blocks] * len(program.groups),
            kv_dtype,
            kv_dtype,
            ledger,
        )
        self._cache = _core.ContiguousCache(len(program.groups), BLOCK_SIZE, n_blocks, False)
        self._runner = _core.StepRunner(executable, self._storage, self._cache, program.vocab_size)
        self._capacity = capacity

    def __call__(self, n_tokens: int, chunk: int = 64) -> F32:
        """Outputs of tokens 0 ... n_tokens - 1 of one new sequence, in steps of ``chunk``."""
        ids = np.arange(n_tokens, dtype=np.int32)
        sequence = self._cache.match_prefix(ids, self._capacity).sequence
        rows = []
        for first in range(0, n_tokens, chunk):
            part = ids[first : first + chunk]
            assert self._cache.reserve(sequence, len(part)).ok
            rows.append(
                np.array(
                    self._runner.run(
                        np.array([sequence], np.int64),
                        np.array([0, len(part)], np.int32),
                        part,
                        np.arange(len(part), dtype=np.int32),
                    )
                )
            )
            self._cache.commit(sequence, part)
        self._cache.release(sequence)
        return np.concatenate(rows)
