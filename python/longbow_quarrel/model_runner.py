"""A model made ready to compute: weights, program, device, cache, ledger."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from longbow_quarrel import _core, models
from longbow_quarrel.cache import attention_masks, make_cache
from longbow_quarrel.config import EngineConfig, total_memory_bytes
from longbow_quarrel.device import make_device
from longbow_quarrel.errors import UsageError
from longbow_quarrel.scheduler import ScheduledChunk

_DEFAULT_CONTEXT = 8192
_DEFAULT_TOKENS_PER_SEQUENCE = 1024


class ModelRunner:
    """Loads a GGUF file and computes steps of it.

    Attributes:
        context_length: tokens a text may have.
        capacity_tokens: tokens the KV cache holds.
        masks: what each layer group may see, see :func:`cache.attention_masks`.
    """

    def __init__(self, path: Path, config: EngineConfig) -> None:
        self.config = config
        self.file = _core.GGUFFile(str(path))
        self.parameters, self.program = models.record(self.file)
        limit = config.memory_limit
        self.ledger = _core.MemoryLedger(
            int(total_memory_bytes() * 0.8) if limit == "auto" else limit
        )
        self.device = make_device(config)
        self.context_length = config.context_length or min(
            self.parameters.context_length, _DEFAULT_CONTEXT
        )
        self.max_tokens = min(config.max_num_batched_tokens, self.context_length)
        self.executable = self.device.compile(
            self.program,
            self.max_tokens,
            self.ledger,
            max_selected_rows=config.max_num_seqs,
            max_context_tokens=self.context_length,
        )

        block_bytes = self.device.kv_block_bytes(
            self.program, config.block_size, config.kv_type_k, config.kv_type_v
        )
        n_blocks = self._blocks_per_group(config, sum(block_bytes))
        self.capacity_tokens = n_blocks * config.block_size
        self.kv_bytes_per_token = sum(block_bytes) // config.block_size
        own_windows = [group.window for group in self.program.groups]
        window = config.window
        if config.cache == "sliding_window":
            window = window or self.context_length
        self.masks = attention_masks(own_windows, window, config.sinks)
        self.cache: _core.KVCache = make_cache(
            config.cache,
            # A cache without a window of its own keeps the sinks of a narrowed layer too.
            groups=[
                own if mask == (own, 0) or config.cache == "sliding_window" else 0
                for own, mask in zip(own_windows, self.masks, strict=True)
            ],
            block_size=config.block_size,
            n_blocks=[n_blocks] * len(block_bytes),
            reuse_prefixes=config.prefix_caching,
            window=window or 0,
            sinks=config.sinks,
            eviction=config.eviction,
            fingerprint=(
                f"{path}:{self.file.file_bytes}:{config.kv_type_k}:{config.kv_type_v}:{self.masks}"
            ),
        )
        self.storage = self.device.allocate_kv(
            self.program,
            config.block_size,
            [n_blocks] * len(block_bytes),
            config.kv_type_k,
            config.kv_type_v,
            self.ledger,
        )
        self._runner = _core.StepRunner(
            self.executable, self.storage, self.cache, self.parameters.vocab_size, self.masks
        )

    def _blocks_per_group(self, config: EngineConfig, bytes_per_block: int) -> int:
        if config.kv_cache_memory != "auto":
            n_blocks = config.kv_cache_memory // bytes_per_block
            if n_blocks == 0:
                raise UsageError(
                    f"kv_cache_memory: one block takes {bytes_per_block} bytes; give at least that."
                )
            return n_blocks
        tokens = max(self.context_length, config.max_num_seqs * _DEFAULT_TOKENS_PER_SEQUENCE)
        free = self.ledger.cap_bytes - self.ledger.used_bytes
        wanted = -(-tokens // config.block_size)
        return max(1, min(wanted, free // 2 // bytes_per_block))

    def run(self, chunks: Sequence[ScheduledChunk]) -> NDArray[np.float32]:
        """Compute one step and commit it. Chunks that decode come first.

        Returns logits [chunks that sample, vocab_size], valid until the next call.
        """
        tokens = [
            c.request.tokens[c.request.n_computed : c.request.n_computed + c.n_tokens]
            for c in chunks
        ]
        starts = np.zeros(len(chunks) + 1, np.int32)
        np.cumsum([c.n_tokens for c in chunks], out=starts[1:])
        wanted = [end - 1 for c, end in zip(chunks, starts[1:], strict=True) if c.samples]
        logits = self._runner.run(
            np.array([c.request.sequence for c in chunks], np.int64),
            starts,
            np.concatenate(tokens),
            np.array(wanted, np.int32),
            sum(c.is_decode for c in chunks),
        )
        for chunk, part in zip(chunks, tokens, strict=True):
            assert chunk.request.sequence is not None
            self.cache.commit(chunk.request.sequence, part)
            chunk.request.n_computed += chunk.n_tokens
        return logits

    def prefill(self, sequence: int, tokens: NDArray[np.int32]) -> None:
        """Compute and commit the next tokens of a sequence; nobody wants their logits.

        Raises:
            UsageError: they do not fit in the KV cache.
        """
        for start in range(0, len(tokens), self.max_tokens):
            part = tokens[start : start + self.max_tokens]
            self._step_alone(sequence, part, len(tokens), n_rows=0)

    def _step_alone(
        self, sequence: int, part: NDArray[np.int32], n_in_all: int, *, n_rows: int
    ) -> NDArray[np.float32]:
        """One step of one sequence, committed; logits of the first ``n_rows`` tokens."""
        room = self.cache.reserve(sequence, len(part))
        if not room:
            raise UsageError(
                f"{n_in_all} tokens do not fit in the KV cache ({room.reason}); "
                "raise kv_cache_memory."
            )
        logits = self._runner.run(
            np.array([sequence], np.int64),
            np.array([0, len(part)], np.int32),
            part,
            np.arange(n_rows, dtype=np.int32),
        )
        self.cache.commit(sequence, part)
        return logits

    def op_seconds(self) -> dict[str, float]:
        """Seconds spent in each kind of op since profiling was switched on. From any thread."""
        seconds: dict[str, float] = {}
        for stage in self.executable.stage_times():
            seconds[stage.name] = seconds.get(stage.name, 0.0) + stage.seconds
        return seconds

    def all_logits(self, token_ids: NDArray[np.int32], chunk: int) -> NDArray[np.float32]:
        """Logits of every position, [n_tokens, vocab_size], ``chunk`` tokens at a time."""
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
        sequence = self.cache.match_prefix(token_ids[:1], len(token_ids)).sequence
        try:
            start = 0
            while start < len(token_ids):
                n = min(chunk, len(token_ids) - start)
                if start < first:  # rows without logits cost no memory for them
                    n = min(self.max_tokens, first - start)
                part = token_ids[start : start + n]
                logits = self._step_alone(
                    sequence, part, len(token_ids), n_rows=n if start >= first else 0
                )
                if start >= first:
                    yield start, logits
                start += n
        finally:
            self.cache.release(sequence)
            self.executable.shrink()
