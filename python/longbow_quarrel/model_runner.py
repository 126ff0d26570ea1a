"""A model made ready to compute: weights, program, device, cache, ledger."""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longbow_quarrel import _core
from longbow_quarrel.cache import build_cache, tokens_for
from longbow_quarrel.config import EngineConfig
from longbow_quarrel.errors import UsageError
from longbow_quarrel.memory_plan import Planner
from longbow_quarrel.scheduler import ScheduledChunk

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ROWS_BETWEEN_RELEASES = 4  # a release takes up to 80 us


class StepLogits:
    """Logits [n_rows, vocab_size] of a step, valid until the next.

    An array for whoever reads them; NumPy is imported then. Sampling takes ``view``.
    """

    def __init__(self, view: memoryview) -> None:
        self.view = view

    def __len__(self) -> int:
        return len(self.view)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        import numpy as np

        array = np.asarray(self.view, dtype)
        return array.copy() if copy else array

    def __getitem__(self, index: Any) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self.__array__()[index]
        return found

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return iter(self.__array__())

    def tobytes(self) -> bytes:
        return self.view.tobytes()


class ModelRunner:
    """Loads a GGUF file and computes steps of it.

    Attributes:
        plan: what was to be charged to the ledger, and was.
    """

    def __init__(
        self,
        path: Path,
        config: EngineConfig,
        ledger: _core.MemoryLedger | None = None,
        *,
        beside: ModelRunner | None = None,
    ) -> None:
        """``ledger``: what to charge, in place of one with the configured cap. ``beside``: a
        runner of the same file, device and step sizes, whose weights, scratch and ledger are
        shared; this one then charges only what its cache takes.

        Raises:
            OutOfMemoryError: the plan does not fit under the cap.
        """
        self.config = config
        self.file: _core.GGUFFile = beside.file if beside else _core.GGUFFile(str(path))
        planner = Planner(self.file, config, beside.device if beside else None)
        self.parameters, self.program = planner.parameters, planner.program
        self.device: _core.Device = planner.device
        self.plan = planner.plan()
        if beside is None:
            self.plan.check()
            self.ledger = ledger or _core.MemoryLedger(self.plan.cap_bytes)
            self.executable = self.device.compile(
                self.program,
                self.plan.max_step_tokens,
                self.ledger,
                max_selected_rows=self.plan.max_num_seqs,
                max_context_tokens=self.plan.context_length,
            )
        else:
            self.plan = self.plan.beside(beside.plan)
            self.ledger, self.executable = beside.ledger, beside.executable
        self.cache: _core.KVCache = build_cache(
            config.cache, dataclasses.replace(self.plan.cache_config, ledger=self.ledger)
        )
        self._tokens = tokens_for(self.cache)
        self._n_rows_read = 0  # of the file's table of embeddings, since its pages were given back
        self.storage = self.device.allocate_kv(
            self.program,
            config.block_size,
            list(self.plan.n_blocks),
            config.kv_type_k,
            config.kv_type_v,
            self.ledger,
        )
        self._runner = _core.StepRunner(
            self.executable,
            self.storage,
            self.cache,
            self.parameters.vocab_size,
            self.masks,
        )

    @property
    def masks(self) -> list[tuple[int, int]]:
        """What each layer group may see, see :func:`cache.attention_masks`."""
        return list(self.plan.masks)

    @property
    def context_length(self) -> int:
        """Tokens a text may have, as configured."""
        return self.plan.context_length

    @property
    def max_text_tokens(self) -> int:
        """Tokens a text may have, and that the KV cache can hold of one."""
        return self.plan.max_text_tokens

    @property
    def max_tokens(self) -> int:
        """Tokens of a step."""
        return self.plan.max_step_tokens

    @property
    def capacity_tokens(self) -> int:
        """Tokens the KV cache holds at the same time."""
        return self.plan.capacity_tokens

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of K and V of a token, in all layers."""
        return self.plan.kv_bytes_per_token

    def run(self, chunks: Sequence[ScheduledChunk]) -> StepLogits:
        """Compute one step and commit it. Chunks that decode come first.

        Returns logits [chunks that sample, vocab_size], valid until the next call.
        """
        tokens = [
            c.request.ids[c.request.n_computed : c.request.n_computed + c.n_tokens] for c in chunks
        ]
        ends = accumulate(c.n_tokens for c in chunks)
        logits = self._compute(
            [c.request.sequence for c in chunks if c.request.sequence is not None],
            tokens,
            [end - 1 for c, end in zip(chunks, ends, strict=True) if c.samples],
            sum(c.is_decode for c in chunks),
            max((c.request.sampler.n_best for c in chunks if c.samples), default=0),
        )
        for chunk in chunks:
            chunk.request.n_computed += chunk.n_tokens
        return StepLogits(logits)

    def step(
        self,
        sequences: Sequence[int],
        parts: Sequence[NDArray[np.int32]],
        rows: Sequence[int],
        n_decodes: int = 0,
        n_best: int = 0,
    ) -> NDArray[np.float32]:
        """Compute and commit ``parts``, the next tokens of each sequence, whose slots are reserved.

        Args:
            rows: of the step's tokens, counted over all parts, whose logits are wanted.
            n_decodes: so many sequences, the first ones, decode, with one token each.
            n_best: how many tokens with the largest logits :meth:`best_ids` is to name.

        Returns logits [len(rows), vocab_size], valid until the next call.
        """
        import numpy as np

        return np.asarray(self._compute(sequences, parts, rows, n_decodes, n_best))

    def _compute(
        self,
        sequences: Sequence[int],
        parts: Sequence[Any],
        rows: Sequence[int],
        n_decodes: int,
        n_best: int,
    ) -> memoryview:
        """As :meth:`step`, of int32 buffers and without NumPy."""
        logits = self._runner.run_view(
            array("q", sequences),
            array("i", accumulate(map(len, parts), initial=0)),
            memoryview(b"".join(parts)).cast("i"),
            array("i", rows),
            n_decodes,
            n_best,
        )
        for sequence, part in zip(sequences, parts, strict=True):
            self.cache.commit(sequence, self._tokens(part))
        self._give_back_pages(sum(map(len, parts)))
        return logits

    def _give_back_pages(self, n_rows: int) -> None:
        """The CPU reads embeddings from the file; each row may bring 2 MB where the system caches
        files in large pieces, which would add up to a second copy of the table. A GPU reads all
        weights there."""
        self._n_rows_read += n_rows
        if self._n_rows_read >= _ROWS_BETWEEN_RELEASES and isinstance(self.device, _core.CpuDevice):
            self._n_rows_read = 0
            self.file.release_pages()

    def best_ids(self) -> memoryview | None:
        """The tokens with the largest logits of each row of the last step, in their
        order, as many as its samplers want; None where the device leaves the search to them."""
        return self._runner.best_ids()

    def prefill(self, sequence: int, tokens: NDArray[np.int32]) -> None:
        """Compute and commit the next tokens of a sequence; nobody wants their logits.

        Raises:
            UsageError: they do not fit in the KV cache.
        """
        for start in range(0, len(tokens), self.max_tokens):
            part = tokens[start : start + self.max_tokens]
            self._step_alone(sequence, part, len(tokens), ())

    def _step_alone(
        self,
        sequence: int,
        part: NDArray[np.int32],
        n_in_all: int,
        rows: Sequence[int],
    ) -> NDArray[np.float32]:
        """One step of one sequence, committed; logits of these ``rows`` of its tokens."""
        room = self.cache.reserve(sequence, len(part))
        if not room:
            raise UsageError(
                f"{n_in_all} tokens do not fit in the KV cache ({room.reason}); "
                "raise kv_cache_memory."
            )
        return self.step([sequence], [part], rows)

    def op_seconds(self) -> dict[str, float]:
        """Seconds spent in each kind of op since profiling was switched on. From any thread."""
        seconds: dict[str, float] = {}
        for stage in self.executable.stage_times():
            seconds[stage.name] = seconds.get(stage.name, 0.0) + stage.seconds
        return seconds

    def all_logits(self, token_ids: NDArray[np.int32], chunk: int) -> NDArray[np.float32]:
        """Logits of every position, [n_tokens, vocab_size], ``chunk`` tokens at a time."""
        import numpy as np

        out = np.empty((len(token_ids), self.parameters.vocab_size), np.float32)
        for position, logits in self.iter_logits(token_ids, chunk):
            out[position : position + len(logits)] = logits
        return out

    def iter_logits(
        self, token_ids: NDArray[np.int32], chunk: int, *, first: int = 0
    ) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Logits of the positions from ``first`` on, at most ``chunk`` of them at a time.

        Yields a position and logits [n_rows, vocab_size] from there on, valid until the next ones.
        Nothing is reused from the cache.

        Raises:
            UsageError: the tokens do not fit in the KV cache.
        """
        import numpy as np

        positions = np.arange(first, len(token_ids), dtype=np.int32)
        for rows, logits in self.iter_logits_at(token_ids, positions, chunk):
            yield first + rows.start, logits

    def iter_logits_at(
        self, token_ids: NDArray[np.int32], positions: NDArray[np.int32], chunk: int
    ) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Logits of some positions, int32 ascending, at most ``chunk`` of them at a time.

        Yields which of ``positions``, and their logits as :meth:`iter_logits` does.

        Raises:
            UsageError: the tokens do not fit in the KV cache.
        """
        import numpy as np

        sequence = self.cache.match_prefix(token_ids[:1], len(token_ids)).sequence
        try:
            start = done = 0
            while done < len(positions):
                end = min(start + self.max_tokens, len(token_ids))
                if done + chunk < len(positions):  # logits take memory, chunk rows at most
                    end = min(end, int(positions[done + chunk]))
                last = int(np.searchsorted(positions, end))
                rows = (positions[done:last] - start).tolist()
                logits = self._step_alone(sequence, token_ids[start:end], len(token_ids), rows)
                if last > done:
                    yield slice(done, last), logits
                start, done = end, last
        finally:
            self.cache.release(sequence)
            self.executable.shrink()
