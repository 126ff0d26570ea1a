"""The public face: load a model, generate, chat, look inside."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longbow_quarrel import _core
from longbow_quarrel.config import EngineConfig, RolloutConfig, SourceConfig
from longbow_quarrel.device import describe
from longbow_quarrel.engine import Engine
from longbow_quarrel.errors import ContextLengthError, UsageError
from longbow_quarrel.request import Request, Timings, TokenLogprobs
from longbow_quarrel.sampling import SamplingParams
from longbow_quarrel.snapshots import SavedSequence

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from longbow_quarrel import sources
    from longbow_quarrel.chat_template import ChatTemplate

Prompt = str | Sequence[int]
Message = Mapping[str, object]
_LOGITS_CHUNK = 64  # rows of logits held natively at a time


@dataclass(frozen=True)
class RequestOutput:
    """A generated text.

    Attributes:
        token_ids: generated tokens, the one that ended the text included.
        logprobs: one entry per generated token, None unless asked for.
        finish_reason: ``stop`` (end token or stop string) or ``length``.
        cached_tokens: prompt tokens whose K and V were in the cache already.
        miss_reason: why it were not more: ``none``, ``empty``, ``diverged``, ``shorter`` or
            ``disabled``.
    """

    text: str
    token_ids: list[int]
    prompt_token_ids: list[int]
    logprobs: list[TokenLogprobs] | None
    finish_reason: str
    cached_tokens: int
    miss_reason: str
    timings: Timings


class LLM:
    """A model in memory. Methods may be called from any thread; one runs at a time.

    With ``prefix_cache_file`` the prefix cache is taken from that file if there is one, and
    written to it by :meth:`close` or at the end of a ``with`` block.

    Args:
        model: a path, a catalogue name, ``hf:…``, ``ollama:…`` or ``pypi:…``; by default what the
            environment or ``quarrel.toml`` says, else ``smollm2-135m``.
        config: how to run it; by default ``EngineConfig.load()``.
        chunk_size: the largest prefill chunk in tokens, short for
            ``max_num_batched_tokens`` of ``config``.
        rollout: a candidate cache strategy that a share of served requests tries out.
        progress: told how far a download is.

    Raises:
        ModelNotFoundError, DownloadError: the model cannot be had.
        ModelFormatError, TokenizerError: its file cannot be used.
        OutOfMemoryError: it does not fit.
        SnapshotError: ``prefix_cache_file`` is damaged or of another model or setting.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        config: EngineConfig | None = None,
        chunk_size: int | None = None,
        rollout: RolloutConfig | None = None,
        progress: sources.ProgressCallback | None = None,
    ) -> None:
        config = config or EngineConfig.load()
        if chunk_size is not None:
            config = EngineConfig(**(config.model_dump() | {"max_num_batched_tokens": chunk_size}))
        source = SourceConfig.load(**({} if model is None else {"model": str(model)}))
        from longbow_quarrel import sources

        self.model = source.model
        self.path = sources.resolve(
            source.model,
            cache_dir=source.cache_dir,
            progress=progress,
            offline=source.offline,
            ollama_store=source.ollama_store,
            index_url=source.index_url,
        )
        self.config = config
        self.engine = _engine(self.path, config, rollout)
        self._lock = threading.Lock()
        self._template: ChatTemplate | None = None
        if config.prefix_cache_file is not None and config.prefix_cache_file.exists():
            self.engine.snapshots.load_prefix_cache(config.prefix_cache_file)

    def close(self) -> None:
        """Write ``prefix_cache_file``, if one is set. The model stays usable.

        Raises:
            SnapshotError: it cannot be written; what was there before stays.
        """
        if self.engine.rollout is not None:
            self.engine.rollout.close()
        if self.config.prefix_cache_file is not None:
            self.save_prefix_cache(self.config.prefix_cache_file)

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | None = None,
        *,
        resume: SavedSequence | None = None,
    ) -> list[RequestOutput]:
        """Complete every prompt (text or token ids); ``params.n`` outputs each, in order.

        Args:
            resume: from :meth:`load_sequence`; prompts that start like it start from it.

        Raises:
            UsageError, ContextLengthError: a prompt that cannot be used.
            OutOfMemoryError: a text that the KV cache can never hold.
        """
        params = params or SamplingParams()
        with self._lock:
            requests: list[Request] = []
            try:
                for ids in map(self._encode, _as_list(prompts)):
                    requests += self.engine.add(
                        ids, params, resume=resume, is_read_as_it_comes=False
                    )
                while any(r.finish_reason is None for r in requests):
                    self.engine.step()
            finally:
                for request in requests:
                    self.engine.cancel(request)
            return [_output(r) for r in requests]

    def stream(
        self,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        resume: SavedSequence | None = None,
    ) -> TextStream:
        """Complete one prompt piece by piece; pieces never split a character."""
        return TextStream(self, self._encode(prompt), params or SamplingParams(), resume)

    def chat(
        self, messages: Sequence[Message], params: SamplingParams | None = None
    ) -> RequestOutput:
        """Answer a conversation, written with the model's own template.

        Raises:
            ChatTemplateError: the model has no template, or it refuses the conversation.
        """
        return self.generate(self.encode_chat(messages), params)[0]

    def stream_chat(
        self, messages: Sequence[Message], params: SamplingParams | None = None
    ) -> TextStream:
        """Like :meth:`chat`, piece by piece."""
        return self.stream(self.encode_chat(messages), params)

    @property
    def has_chat_template(self) -> bool:
        """Whether the model file tells how to write a conversation."""
        return self.engine.runner.file.get("tokenizer.chat_template") is not None

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a conversation, ready for the model's answer."""
        from longbow_quarrel.chat_template import encode_chat

        return encode_chat(self.engine.tokenizer, self.render_chat(messages))

    def render_chat(self, messages: Sequence[Message]) -> str:
        """Text of a conversation, as the model's own template writes it.

        Raises:
            ChatTemplateError: the model has no template, or it refuses the conversation.
        """
        if self._template is None:
            from longbow_quarrel.chat_template import ChatTemplate  # Jinja takes a while

            self._template = ChatTemplate.from_metadata(
                self.engine.runner.file, self.engine.tokenizer
            )
        return self._template.render(messages)

    def tokenize(
        self, text: str, *, add_special: bool = True, parse_special: bool = False
    ) -> list[int]:
        """Token ids of ``text``."""
        return self.engine.tokenizer.encode(
            text, add_special=add_special, parse_special=parse_special
        )

    def detokenize(self, token_ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of token ids."""
        return self.engine.tokenizer.decode(token_ids, skip_special=skip_special)

    def logits(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Logits of every position, [n_tokens, vocab_size], as generation computes them.

        Raises:
            ContextLengthError: more tokens than the context holds.
        """
        import numpy as np

        ids = np.asarray(token_ids, np.int32)
        runner = self.engine.runner
        if not 0 < len(ids) <= runner.context_length:
            raise ContextLengthError(
                f"logits needs 1 to {runner.context_length} tokens, got {len(ids)}."
            )
        with self._lock:
            return runner.all_logits(ids, min(_LOGITS_CHUNK, runner.max_tokens))

    def save_prefix_cache(self, path: str | Path) -> _core.SnapshotFigures:
        """Write all K and V that later prompts could reuse.

        The file appears whole or not at all. Returns the numbers of blocks, tokens and bytes.

        Raises:
            SnapshotError: it cannot be written; what was there before stays.
            UsageError: the strategy cannot save, or prefix caching is off.
        """
        with self._lock:
            return self.engine.snapshots.save_prefix_cache(path)

    def load_prefix_cache(self, path: str | Path) -> _core.SnapshotFigures:
        """Take saved K and V into the prefix cache, as much as fits, last used first.

        Returns how many blocks and tokens were taken, the size of the file in bytes beside them.

        Raises:
            SnapshotError: the file is damaged, or was saved with another model, KV type, block
                size, window, device or version; nothing is taken then.
            UsageError: the strategy cannot restore, or prefix caching is off.
        """
        with self._lock:
            return self.engine.snapshots.load_prefix_cache(path)

    def save_sequence(self, path: str | Path, prompt: Prompt) -> _core.SnapshotFigures:
        """Write K and V of one text, to the last token; what the cache lacks is computed.

        Raises:
            SnapshotError: it cannot be written; what was there before stays.
            UsageError: the prompt cannot be used or does not fit in the cache.
            OutOfMemoryError: memory_limit has no room for the copy.
        """
        ids = self.engine.checked_prompt(self._encode(prompt))
        longest = self.engine.runner.context_length
        if len(ids) > longest:
            raise ContextLengthError(f"save_sequence takes up to {longest} tokens, got {len(ids)}.")
        with self._lock:
            snapshots = self.engine.snapshots
            return snapshots.save_sequence(path, snapshots.compute(ids))

    def load_sequence(self, path: str | Path) -> SavedSequence:
        """A text that :meth:`save_sequence` wrote, for ``generate(..., resume=...)``.

        A prompt that starts with it computes only what follows.

        Raises:
            SnapshotError: as :meth:`load_prefix_cache`.
            OutOfMemoryError: memory_limit has no room for it.
        """
        with self._lock:
            return self.engine.snapshots.load_sequence(path)

    def stats(self) -> dict[str, Any]:
        """Cache, ledger and scheduler figures as plain data; blocks and bytes."""
        runner = self.engine.runner
        cache = runner.cache.stats()
        return {
            "cache": {
                "strategy": runner.cache.strategy,
                "block_size": runner.cache.block_size,
                "capacity_tokens": runner.capacity_tokens,
                "kv_bytes_per_token": runner.kv_bytes_per_token,
                "n_blocks": cache.n_blocks,
                "n_used_blocks": cache.n_used_blocks,
                "n_cached_blocks": cache.n_cached_blocks,
                "n_sequences": cache.n_sequences,
                "prefix_queries_tokens": cache.n_prefix_queries_tokens,
                "prefix_hit_tokens": cache.n_prefix_hit_tokens,
                "evicted_blocks": cache.n_evicted_blocks,
            },
            "memory": {
                "cap_bytes": runner.ledger.cap_bytes,
                "used_bytes": runner.ledger.used_bytes,
                "peak_bytes": runner.ledger.peak_bytes,
                "by_kind": runner.ledger.used_by_kind(),
                "predicted_by_kind": self.engine.predicted_by_kind(),
            },
            "scheduler": {
                "running": sum(len(arm.scheduler.running) for arm in self.engine.arms),
                "waiting": sum(arm.scheduler.n_waiting for arm in self.engine.arms),
            },
            "device": describe(runner.device),
            "rollout": self.engine.rollout and self.engine.rollout.summary(),
        }

    def _encode(self, prompt: Prompt) -> list[int]:
        return self.tokenize(prompt) if isinstance(prompt, str) else list(prompt)


class TextStream:
    """Iterate to get pieces of text; afterwards :attr:`output` holds the whole answer.

    Leaving it early (``close``, or the end of a ``with`` block) gives its memory back.
    """

    def __init__(
        self,
        llm: LLM,
        prompt: list[int],
        params: SamplingParams,
        resume: SavedSequence | None = None,
    ) -> None:
        if params.n != 1:
            raise UsageError(f"stream gives one text; n must be 1, not {params.n}.")
        self._llm = llm
        with llm._lock:
            [self._request] = llm.engine.add(prompt, params, resume=resume)

    def __iter__(self) -> Iterator[str]:
        return filter(None, self.steps())

    def steps(self) -> Iterator[str]:
        """One piece per step of the engine, empty while a long prompt is being computed.

        For callers that want to look up in between.
        """
        try:
            while True:
                with self._llm._lock:
                    if self._request.finish_reason is None:
                        self._llm.engine.step()
                    piece, self._request.unread = self._request.unread, ""
                    done = self._request.finish_reason is not None
                yield piece
                if done:
                    break
        finally:
            self.close()
        if self._request.error is not None:
            raise self._request.error

    def __enter__(self) -> TextStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the request; what was generated so far stays in :attr:`output`."""
        with self._llm._lock:
            self._llm.engine.cancel(self._request)

    @property
    def output(self) -> RequestOutput:
        """The answer, as far as it has come."""
        return _output(self._request)


def _engine(path: Path, config: EngineConfig, rollout: RolloutConfig | None) -> Engine:
    if rollout is None or rollout.rollout is None:
        return Engine(path, config)
    from longbow_quarrel.rollout.start import make_engine

    return make_engine(path, config, rollout)


def _as_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    if isinstance(prompts, str):
        return [prompts]
    if len(prompts) > 0 and isinstance(prompts[0], Integral):
        return [prompts]  # type: ignore[list-item]
    return list(prompts)  # type: ignore[arg-type]


def _output(request: Request) -> RequestOutput:
    if request.error is not None:
        raise request.error
    return RequestOutput(
        text=request.text,
        token_ids=request.output_ids,
        prompt_token_ids=request.ids[: request.n_prompt].tolist(),
        logprobs=request.logprobs if request.params.logprobs is not None else None,
        finish_reason=request.finish_reason or "",
        cached_tokens=request.cached_tokens,
        miss_reason=request.miss_reason,
        timings=request.timings,
    )
