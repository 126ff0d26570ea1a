"""An engine in a thread of its own: callers hand requests in and hear of what comes out.

Nobody who calls this waits for a step. Commands go through a queue that the thread empties between
two steps. What is new after a step is told to ``deliver`` in one piece, when the next step is about
to be computed: the device needs no interpreter, so listeners have it to themselves.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import NamedTuple, TypeVar

from longbow_quarrel.engine import Engine
from longbow_quarrel.errors import EngineStoppedError, QueueFullError, UsageError
from longbow_quarrel.request import Request, TokenLogprobs
from longbow_quarrel.sampling import SamplingParams

T = TypeVar("T")
_log = logging.getLogger(__name__)
_LONGEST_RETRY_SECONDS = 60
_FINISHES_REMEMBERED = 32


class Update(NamedTuple):
    """What is new of a request since its last update.

    Attributes:
        text: complete characters; may be empty although there are new tokens.
        n_tokens: generated so far.
        logprobs: of the new tokens, where they were asked for.
        finish_reason: None as long as there is more to come.
    """

    request: Request
    text: str
    n_tokens: int
    logprobs: list[TokenLogprobs]
    finish_reason: str | None


class EngineThread:
    """Runs an engine; methods may be called from any thread, unless they say otherwise.

    Args:
        max_queue: requests that may wait for their turn beside ``max_num_seqs`` that run.
        deliver: called in the engine's thread with what a step brought; must not wait.
    """

    def __init__(
        self, engine: Engine, *, max_queue: int, deliver: Callable[[list[Update]], None]
    ) -> None:
        self.engine = engine
        self.capacity = engine.config.max_num_seqs + max_queue
        self._deliver = deliver
        self._commands: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()  # of what follows
        self._unfinished: dict[Request, int] = {}  # how many tokens were told of
        self._is_open = True
        self._finishes: deque[float] = deque(maxlen=_FINISHES_REMEMBERED)
        self._stopping = False  # the thread's own
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def submit(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, request_id: str = ""
    ) -> list[list[Request]]:
        """Queue ``params.n`` texts of each prompt: all of them or none.

        Args:
            request_id: how the caller names the request; a rollout chooses its arm by it.

        Raises:
            UsageError, ContextLengthError: see ``Engine.add``; or more texts than ever may wait.
            QueueFullError: too many wait already.
            EngineStoppedError: after :meth:`close`.
        """
        n = len(prompts) * params.n
        if n > self.capacity:
            raise UsageError(
                f"{n} texts were asked for at once but at most {self.capacity} may wait; "
                "ask for fewer, or raise max_queue."
            )
        self._check_room(n)  # before the work of preparing them
        groups = [self.engine.prepare(prompt, params) for prompt in prompts]
        with self._lock:
            self._check_room(n)
            self._unfinished.update((request, 0) for group in groups for request in group)
        for leader, *_ in groups:
            self._commands.put(partial(self.engine.submit, leader, request_id))
        return groups

    def cancel(self, requests: Sequence[Request]) -> None:
        """End requests before the next step; nothing happens to those that have ended."""
        for request in requests:
            self._commands.put(partial(self.engine.cancel, request))

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Run a function in the engine's thread, between two steps."""
        future: Future[T] = Future()

        def run() -> None:
            self._tell()  # the function may take its time
            try:
                future.set_result(function())
            except BaseException as e:
                future.set_exception(e)

        self._commands.put(run)
        return future

    @property
    def n_unfinished(self) -> int:
        """Requests that wait or run."""
        return len(self._unfinished)

    @property
    def is_open(self) -> bool:
        """Whether requests are taken."""
        return self._is_open

    def close(self) -> None:
        """Take no more requests; those there are go on."""
        with self._lock:
            self._is_open = False

    def stop(self) -> None:
        """End all requests, then the thread; waits for the step that is being computed."""
        self.close()
        self._commands.put(self._stop)
        if self._thread.is_alive():
            self._thread.join()

    def _check_room(self, n: int) -> None:
        if not self._is_open:
            self.engine.observer.refused("stopping")
            raise EngineStoppedError("The server is shutting down; ask another one, or later.")
        if len(self._unfinished) + n > self.capacity:
            self.engine.observer.refused("queue_full")
            raise QueueFullError(
                f"{len(self._unfinished)} requests run or wait already; try again later.",
                self._retry_after_seconds(),
            )

    def _retry_after_seconds(self) -> int:
        """When the next request will probably end, by how often requests ended of late."""
        finishes = list(self._finishes)
        if len(finishes) < 2:
            return 1
        mean = (time.perf_counter() - finishes[0]) / len(finishes)
        return max(1, min(_LONGEST_RETRY_SECONDS, math.ceil(mean)))

    # ---- The engine's thread ---------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping:
            self._take_commands()
            if not self._stopping and self.engine.has_work:
                self.engine.step(meanwhile=self._tell)
            if self._stopping or not self.engine.has_work:
                self._tell()

    def _take_commands(self) -> None:
        """Run all commands there are; without requests, wait for one."""
        block = not self.engine.has_work
        while not self._stopping:
            try:
                command = self._commands.get(block)
            except queue.Empty:
                return
            block = False
            try:
                command()
            except Exception:  # a cache that cannot let go must not end the thread
                _log.exception("a command of the engine failed")

    def _stop(self) -> None:
        for request in list(self._unfinished):
            self.engine.cancel(request)
        self._stopping = True

    def _tell(self) -> None:
        with self._lock:
            updates = [u for u in map(self._news_of, list(self._unfinished)) if u is not None]
        if updates:
            try:
                self._deliver(updates)
            except Exception:  # nobody listens any more
                _log.exception("updates could not be delivered")

    def _news_of(self, request: Request) -> Update | None:
        n_told = self._unfinished[request]
        n_tokens, reason = request.n_tokens - request.n_prompt, request.finish_reason
        if n_tokens == n_told and reason is None:
            return None
        if reason is None:
            self._unfinished[request] = n_tokens
        else:
            self._finishes.append(time.perf_counter())
            del self._unfinished[request]
        text, request.unread = request.unread, ""
        return Update(request, text, n_tokens, request.logprobs[n_told:], reason)
