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
I32 = npt.NDArray[np.int32]


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
        v_dtype: str | None = None,
        block_size: int = 16,
        mask: tuple[int, int] | None = None,
        capacity: int = 64,
        max_tokens: int = 64,
    ) -> None:
        """kv_dtype: of K, and of V unless v_dtype is given. mask: (window, sinks)."""
        file = _core.GGUFFile(str(path))
        program = record(_core.ProgramBuilder(kv_layers), file)
        ledger = _core.MemoryLedger(1 << 30)
        device = _core.CpuDevice(n_threads, isa)
        executable = device.compile(program, max_tokens, ledger)
        n_groups = len(program.groups)
        n_blocks = 4 * (capacity // block_size + 1)
        types = (kv_dtype, v_dtype or kv_dtype)
        counts = [n_blocks] * n_groups
        self._storage = device.allocate_kv(program, block_size, counts, *types, ledger)
        self._cache = _core.ContiguousCache(n_groups, block_size, n_blocks, False)
        masks = [] if mask is None else [mask] * n_groups
        self._runner = _core.StepRunner(
            executable, self._storage, self._cache, program.vocab_size, masks
        )
        self._capacity = capacity

    def __call__(self, n_tokens: int, chunk: int = 64) -> F32:
        """Outputs of tokens 0 ... n_tokens - 1 of one new sequence, in steps of ``chunk``."""
        return self.ragged([(np.arange(n_tokens, dtype=np.int32), chunk)])[0]

    def ragged(self, texts: list[tuple[I32, int]]) -> list[F32]:
        """Outputs of several texts side by side, each in chunks of its own."""
        live = {
            self._cache.match_prefix(ids, self._capacity).sequence: (i, ids, chunk)
            for i, (ids, chunk) in enumerate(texts)
        }
        rows: list[list[F32]] = [[] for _ in texts]
        while live:
            parts = {s: ids[:chunk] for s, (_, ids, chunk) in live.items()}
            outputs = self._step(parts)
            for sequence, output in zip(list(live), outputs, strict=True):
                i, ids, chunk = live.pop(sequence)
                rows[i].append(output)
                if len(ids) > chunk:
                    live[sequence] = (i, ids[chunk:], chunk)
                else:
                    self._cache.release(sequence)
        return [np.concatenate(r) for r in rows]

    def _step(self, parts: dict[int, I32]) -> list[F32]:
        for sequence, ids in parts.items():
            assert self._cache.reserve(sequence, len(ids)).ok
        starts = np.cumsum([0, *map(len, parts.values())]).astype(np.int32)
        tokens = np.concatenate(list(parts.values()))
        out = self._runner.run(
            np.array(list(parts), np.int64), starts, tokens, np.arange(len(tokens), dtype=np.int32)
        ).copy()
        for sequence, ids in parts.items():
            self._cache.commit(sequence, ids)
        return np.split(out, starts[1:-1])
