"""An engine's thread, as asyncio sees it: requests whose updates can be awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from longbow_quarrel.engine import Engine
from longbow_quarrel.engine_thread import EngineThread, Update
from longbow_quarrel.request import Request
from longbow_quarrel.sampling import SamplingParams
from longbow_quarrel.server.errors import RequestTimeoutError


class AsyncEngine:
    """Hands requests to an engine's thread; belongs to the event loop in which it was started."""

    def __init__(self, engine: Engine, *, max_queue: int, timeout_seconds: float) -> None:
        self.thread = EngineThread(engine, max_queue=max_queue, deliver=self._deliver)
        self._timeout_seconds = timeout_seconds
        self._generations: dict[Request, Generation] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.thread.start()

    def open(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams, request_id: str
    ) -> Generation:
        """Start texts; raises what ``EngineThread.submit`` raises. To be closed by the caller."""
        groups = self.thread.submit(prompts, params, request_id)
        generation = Generation(self, groups, self._timeout_seconds)
        self._generations.update((r, generation) for r in generation.requests)
        return generation

    def forget(self, requests: Sequence[Request]) -> None:
        """End requests that nobody wants any more."""
        for request in requests:
            self._generations.pop(request, None)
        self.thread.cancel([r for r in requests if r.finish_reason is None])

    def _deliver(self, updates: list[Update]) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._dispatch, updates)

    def _dispatch(self, updates: list[Update]) -> None:
        for update in updates:
            generation = self._generations.get(update.request)
            if generation is not None:
                generation.put(update)


class Generation:
    """The texts of one HTTP request.

    Attributes:
        groups: the requests of each prompt.
        requests: all of them, in order.
    """

    def __init__(
        self, engine: AsyncEngine, groups: list[list[Request]], timeout_seconds: float
    ) -> None:
        self.groups = groups
        self.requests = [request for group in groups for request in group]
        self._engine = engine
        self._news: list[Update | Exception] = []
        self._is_news = asyncio.Event()
        self._timer = asyncio.get_running_loop().call_later(
            timeout_seconds, self.put, RequestTimeoutError(timeout_seconds)
        )

    def put(self, news: Update | Exception) -> None:
        """An update, or an exception that ends the waiting."""
        self._news.append(news)
        self._is_news.set()

    def close(self) -> None:
        """End what is not finished and give its memory back."""
        self._timer.cancel()
        self._engine.forget(self.requests)

    async def updates(self) -> AsyncIterator[list[Update]]:
        """What is new, as it comes, until every text has ended.

        Raises:
            RequestTimeoutError: it took too long.
            Exception: what ended a text too early.
        """
        n_left = len(self.requests)
        while n_left > 0:
            await self._is_news.wait()
            self._is_news.clear()
            batch, self._news = self._news, []
            updates: list[Update] = []
            for news in batch:
                error = news if isinstance(news, Exception) else news.request.error
                if error is not None:
                    raise error
                assert isinstance(news, Update)
                updates.append(news)
            n_left -= sum(u.finish_reason is not None for u in updates)
            yield updates
