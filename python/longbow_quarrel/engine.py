"""The loop that turns requests into tokens. One thread at a time."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from longbow_quarrel import _core
from longbow_quarrel.config import EngineConfig
from longbow_quarrel.errors import ContextLengthError, UsageError
from longbow_quarrel.model_runner import ModelRunner
from longbow_quarrel.observer import EngineObserver
from longbow_quarrel.request import Request, TokenLogprobs
from longbow_quarrel.sampling import SamplingParams
from longbow_quarrel.scheduler import ScheduledChunk, Scheduler
from longbow_quarrel.snapshots import SavedSequence, Snapshots
from longbow_quarrel.tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from longbow_quarrel.rollout.control import Control


class Engine:
    """Requests go in with :meth:`add`; every :meth:`step` computes one batch.

    Attributes:
        observer: told what happens; by default nobody.
        snapshots: saves and restores what the cache holds.
        rollout: the staged rollout that this engine is part of, if it is.
    """

    rollout: Control | None = None

    def __init__(self, path: Path, config: EngineConfig, *, beside: Engine | None = None) -> None:
        """``beside``: an engine of the same model whose weights, tokenizer and ledger this one
        shares; the two may not compute at the same time."""
        self.config = config
        self.runner: ModelRunner = ModelRunner(
            path, config, beside=None if beside is None else beside.runner
        )
        self.tokenizer: Tokenizer = (
            beside.tokenizer if beside else Tokenizer.from_metadata(self.runner.file)
        )
        self.runner.file.release_pages()  # what was only read to be copied
        self.scheduler = Scheduler(
            self.runner.cache,
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=self.runner.max_tokens,
            max_mixed_prefill_tokens=config.max_mixed_prefill_tokens,
            observer=EngineObserver(),
        )
        self.snapshots = Snapshots(self.runner)
        self._workspace: _core.SamplerWorkspace = (
            beside._workspace if beside else _core.SamplerWorkspace(self.vocab_size)
        )

    @property
    def arms(self) -> tuple[Engine, ...]:
        """All engines that share this one's weights, itself first."""
        return (self,)

    def predicted_by_kind(self) -> dict[str, int]:
        """Bytes that the memory plans of all arms predicted together."""
        plans = [arm.runner.plan.by_kind for arm in self.arms]
        return {kind: sum(plan[kind] for plan in plans) for kind in plans[0]}

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self.scheduler.running or self.scheduler.waiting)

    @property
    def vocab_size(self) -> int:
        return self.runner.parameters.vocab_size

    @property
    def observer(self) -> EngineObserver:
        return self.scheduler.observer

    @observer.setter
    def observer(self, observer: EngineObserver) -> None:
        self.scheduler.observer = observer

    @property
    def max_prompt_tokens(self) -> int:
        """The longest prompt that leaves room for one token."""
        return self.runner.max_text_tokens - 1

    def add(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        *,
        resume: SavedSequence | None = None,
        is_read_as_it_comes: bool = True,
    ) -> list[Request]:
        """Queue ``params.n`` texts of a prompt, which is computed once, from ``resume`` on.

        Args:
            is_read_as_it_comes: False where only the end counts, so that prompts take whole steps.

        Raises:
            UsageError: an empty prompt, a token id outside the vocabulary, or a saved text of
                another engine.
            ContextLengthError: the prompt leaves no room for a token.
        """
        if resume is not None and resume.cache is not self.runner.cache:
            raise UsageError("The saved text is another model's; use this one's load_sequence.")
        requests = self.prepare(prompt, params)
        requests[0].saved = resume
        for request in requests:
            request.is_read_as_it_comes = is_read_as_it_comes
        self.scheduler.add(requests[0])
        return requests

    def prepare(self, prompt: Sequence[int], params: SamplingParams) -> list[Request]:
        """What :meth:`add` queues; may be called from any thread, and raises what it raises.

        The first one goes to ``scheduler.add`` and brings the others along.
        """
        ids = self._checked_ids(prompt)
        leader, *followers = [self._request(ids, params, i) for i in range(params.n)]
        leader.followers = list(followers)
        for follower in followers:
            follower.leader = leader
        return [leader, *followers]

    def submit(self, leader: Request, request_id: str) -> None:  # noqa: ARG002 (for rollouts)
        """Queue what :meth:`prepare` made, on behalf of the caller's request of that name."""
        self.scheduler.add(leader)

    def make_sampler(self, params: SamplingParams, index: int) -> _core.Sampler:
        """The sampler of the ``index``-th text of a request."""
        banned = self.tokenizer.eog_ids if params.ignore_eos else ()
        return params.make_sampler(self.vocab_size, index=index, banned_token_ids=banned)

    def _request(self, ids: array[int], params: SamplingParams, index: int) -> Request:
        room = self.max_prompt_tokens + 1 - len(ids)
        if room < 1:
            raise ContextLengthError(
                f"The prompt has {len(ids)} tokens but at most {self.max_prompt_tokens} fit; "
                "shorten it or raise context_length."
            )
        tokens = ids + array("i", bytes(4 * min(params.max_tokens, room)))
        sampler = self.make_sampler(params, index)
        sampler.accept_all(ids)
        return Request(
            params=params,
            sampler=sampler,
            decoder=self.tokenizer.stream_decoder(continuation=True),
            stop=params.make_stop_matcher(),
            ids=memoryview(tokens),
            n_prompt=len(ids),
            n_tokens=len(ids),
        )

    def cancel(self, request: Request) -> None:
        """End a request now and give its blocks back; nothing happens if it has ended."""
        if request.finish_reason is None:
            self.scheduler.finish(request, "cancelled")

    def step(self, *, meanwhile: Callable[[], None] | None = None) -> bool:
        """Compute one batch; False when there is nothing left to do.

        ``meanwhile`` is called when the batch is known, right before the device computes it.

        An exception of the device ends the requests of the step and is kept as their ``error``.
        One of the cache's bookkeeping, which belongs to no request, ends them all.
        """
        self.observer.began("schedule")
        try:
            return self._step(meanwhile)
        finally:
            self.observer.began("idle")

    def _step(self, meanwhile: Callable[[], None] | None) -> bool:
        try:
            chunks = self.scheduler.schedule()
        except Exception as e:
            self._fail([*self.scheduler.running, *self.scheduler.waiting], e)
            return False
        if meanwhile is not None:
            self.observer.began("deliver")
            meanwhile()
        if not chunks:
            return bool(self.scheduler.waiting)
        involved = [chunk.request for chunk in chunks]
        try:
            self._compute(chunks, involved)
        except Exception as e:
            self._fail(involved, e)
        return True

    def _compute(self, chunks: Sequence[ScheduledChunk], involved: list[Request]) -> None:
        sampling = [c.request for c in chunks if c.samples]  # before the step moves n_computed
        phase = phase_of(chunks)
        self.observer.began("compute")
        logits = self.runner.run(chunks)
        self.observer.began("sample")
        self.observer.stepped(sum(c.n_tokens for c in chunks), phase)
        rows = list(range(len(sampling)))
        for row, request in enumerate(tuple(sampling)):
            if request.followers:
                forked = self.scheduler.fork_followers(request)
                sampling += forked
                involved += forked
                rows += [row] * len(forked)
        if sampling:
            if len(rows) == len(logits):
                self._sample(sampling, logits.view, self.runner.best_ids())
            else:
                self._sample(sampling, logits[rows])

    def _fail(self, requests: Sequence[Request], error: Exception) -> None:
        for request in requests:
            if request.finish_reason is not None:  # ended before the exception came
                continue
            request.error = error
            try:
                self.scheduler.finish(request, "error")
            except Exception as e:
                # A cache that cannot even let go; the request has ended nevertheless.
                e.__context__ = error
                request.error = e

    def checked_prompt(self, prompt: Sequence[int]) -> NDArray[np.int32]:
        """The prompt as an array.

        Raises:
            UsageError: it is empty, or a token id lies outside the vocabulary.
        """
        import numpy as np

        return np.asarray(self._checked_ids(prompt))

    def _checked_ids(self, prompt: Sequence[int]) -> array[int]:
        if len(prompt) == 0:
            raise UsageError("The prompt is empty; give at least one token.")
        try:
            ids = array("i", prompt)
        except (TypeError, OverflowError):
            ids = None
        if ids is None or min(ids) < 0 or max(ids) >= self.vocab_size:
            raise UsageError(f"Token ids must be from 0 to {self.vocab_size - 1}.")
        return ids

    def _sample(
        self,
        requests: Sequence[Request],
        logits: memoryview | NDArray[np.float32],
        best: memoryview | None = None,
    ) -> None:
        sampled = _core.sample_batch(
            [r.sampler for r in requests],
            logits,
            [r.n_tokens for r in requests],
            self._workspace,
            best,
        )
        now = time.perf_counter()
        for request, token in zip(requests, sampled, strict=True):
            self._append(request, token, now)

    def _append(self, request: Request, token: _core.SampledToken, now: float) -> None:
        times = request.timings
        if times.first_token is None:
            times.first_token = now
        last, times.last_token = times.last_token, now
        self.scheduler.observer.sampled(request, None if last is None else now - last)
        token_id = token.token_id
        request.ids[request.n_tokens] = token_id
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


def phase_of(chunks: Sequence[ScheduledChunk]) -> str:
    """What a step does: ``prefill``, ``decode`` or, where some do the one and some the other,
    ``mixed``."""
    n_decodes = sum(c.is_decode for c in chunks)
    if n_decodes == 0:
        return "prefill"
    return "decode" if n_decodes == len(chunks) else "mixed"
