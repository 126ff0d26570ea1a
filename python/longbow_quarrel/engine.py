"""The loop that turns requests into tokens. One thread at a time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from longbow_quarrel import _core
from longbow_quarrel.config import EngineConfig
from longbow_quarrel.errors import ContextLengthError, UsageError
from longbow_quarrel.model_runner import ModelRunner
from longbow_quarrel.request import Request, TokenLogprobs
from longbow_quarrel.sampling import SamplingParams
from longbow_quarrel.scheduler import ScheduledChunk, Scheduler
from longbow_quarrel.tokenizer import Tokenizer


class Engine:
    """Requests go in with :meth:`add`; every :meth:`step` computes one batch."""

    def __init__(self, path: Path, config: EngineConfig) -> None:
        self.config = config
        self.runner = ModelRunner(path, config)
        self.tokenizer = Tokenizer.from_metadata(self.runner.file.metadata)
        self.scheduler = Scheduler(
            self.runner.cache,
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=self.runner.max_tokens,
        )
        self._workspace = _core.SamplerWorkspace(self.vocab_size)

    @property
    def vocab_size(self) -> int:
        return self.runner.parameters.vocab_size

    def add(self, prompt: Sequence[int], params: SamplingParams, *, index: int = 0) -> Request:
        """Queue a request. ``index``: which of ``params.n`` texts it is.

        Raises:
            UsageError: an empty prompt or a token id outside the vocabulary.
            ContextLengthError: the prompt leaves no room for a token.
        """
        ids = self._checked(prompt)
        room = min(self.runner.context_length, self.runner.capacity_tokens) - len(ids)
        if room < 1:
            raise ContextLengthError(
                f"The prompt has {len(ids)} tokens but at most {len(ids) + room - 1} fit; "
                "shorten it or raise context_length."
            )
        tokens = np.empty(len(ids) + min(params.max_tokens, room), np.int32)
        tokens[: len(ids)] = ids
        banned = self.tokenizer.eog_ids if params.ignore_eos else ()
        sampler = params.make_sampler(self.vocab_size, index=index, banned_token_ids=banned)
        sampler.accept_all(ids)
        request = Request(
            params=params,
            sampler=sampler,
            decoder=self.tokenizer.stream_decoder(continuation=True),
            stop=params.make_stop_matcher(),
            tokens=tokens,
            n_prompt=len(ids),
            n_tokens=len(ids),
        )
        self.scheduler.add(request)
        return request

    def cancel(self, request: Request) -> None:
        """End a request now and give its blocks back; nothing happens if it has ended."""
        if request.finish_reason is None:
            self.scheduler.finish(request, "cancelled")

    def step(self) -> bool:
        """Compute one batch; False when there is nothing left to do.

        An exception of the device ends the requests of the step and is kept as their ``error``.
        """
        chunks = self.scheduler.schedule()
        if not chunks:
            return bool(self.scheduler.waiting)
        try:
            sampling = [c for c in chunks if c.samples]  # before the step moves n_computed
            logits = self.runner.run(chunks)
            if sampling:
                self._sample(sampling, logits)
        except Exception as e:
            for chunk in chunks:
                chunk.request.error = e
                self.scheduler.finish(chunk.request, "error")
        return True

    def _checked(self, prompt: Sequence[int]) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        if len(prompt) == 0:
            raise UsageError("The prompt is empty; give at least one token.")
        ids = np.asarray(prompt, np.int64)
        if ids.ndim != 1 or ids.min() < 0 or ids.max() >= self.vocab_size:
            raise UsageError(f"Token ids must be from 0 to {self.vocab_size - 1}.")
        return ids.astype(np.int32)

    def _sample(
        self,
        chunks: Sequence[ScheduledChunk],
        logits: np.ndarray[tuple[int, int], np.dtype[np.float32]],
    ) -> None:
        sampled = _core.sample_batch(
            [c.request.sampler for c in chunks],
            logits,
            [c.request.n_tokens for c in chunks],
            self._workspace,
        )
        now = time.perf_counter()
        for chunk, token in zip(chunks, sampled, strict=True):
            self._append(chunk.request, token, now)

    def _append(self, request: Request, token: _core.SampledToken, now: float) -> None:
        if request.timings.first_token is None:
            request.timings.first_token = now
        token_id = token.token_id
        request.tokens[request.n_tokens] = token_id
        request.n_tokens += 1
        request.sampler.accept(token_id)
        if token.logprob is not None:
            request.logprobs.append(TokenLogprobs(token_id, token.logprob, token.top_logprobs))

        ends = not request.params.ignore_eos and token_id in self.tokenizer.eog_ids
        if ends or token_id in request.params.stop_token_ids:
            self._finish(request, "stop")
        else:
            request.emit(request.stop.push(request.decoder.push(token_id)))
            if request.stop.matched is not None:
                self.scheduler.finish(request, "stop")
            elif request.n_tokens == request.max_total:
                self._finish(request, "length")

    def _finish(self, request: Request, reason: str) -> None:
        request.emit(request.stop.push(request.decoder.finish()))
        request.emit(request.stop.flush())
        self.scheduler.finish(request, reason)
