"""What the routes share: the model, its engine, and how a completion is answered."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Sequence

from fastapi import Request
from fastapi.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from longbow_quarrel.config import ServerConfig
from longbow_quarrel.errors import ContextLengthError, QuarrelError
from longbow_quarrel.llm import LLM
from longbow_quarrel.sampling import SamplingParams
from longbow_quarrel.server.answers import Answer, AnswerFactory, error_event
from longbow_quarrel.server.errors import ClientGoneError, UnknownModelError, describe
from longbow_quarrel.server.generation import AsyncEngine, Generation
from longbow_quarrel.telemetry import EngineMetrics

_log = logging.getLogger(__name__)
_REQUEST_ID = "X-Request-Id"


class Service:
    """One model being served.

    Args:
        name: how requests call it.
    """

    def __init__(self, llm: LLM, config: ServerConfig, name: str) -> None:
        self.llm = llm
        self.name = name
        self._save_interval_seconds = config.prefix_cache_save_interval
        self.created = int(time.time())
        self.metrics = EngineMetrics(llm.engine, name)
        self.engine = AsyncEngine(
            llm.engine, max_queue=config.max_queue, timeout_seconds=config.request_timeout
        )

    async def keep_saved(self) -> None:
        """Write the prefix cache again and again, so that a killed server leaves it behind.

        Runs between two steps of the engine, which stands still meanwhile.
        """
        path = self.llm.config.prefix_cache_file
        if path is None:
            return
        saved = self._cached_texts()
        while True:
            await asyncio.sleep(self._save_interval_seconds)
            now = self._cached_texts()
            if now == saved:
                continue
            saved = now
            try:
                await asyncio.wrap_future(
                    self.engine.thread.call(lambda: self.llm.save_prefix_cache(path))
                )
            except QuarrelError as e:  # a full disk must not end the server
                _log.error("the prefix cache was not saved: %s", e)

    def _cached_texts(self) -> tuple[int, ...]:
        """Changes when what is cached does."""
        stats = self.llm.engine.runner.cache.stats()
        return stats.n_prefix_queries_tokens, stats.n_cached_blocks, stats.n_evicted_blocks

    def check_model(self, name: str | None) -> None:
        """Raises UnknownModelError for any name but that of the model being served."""
        if name is not None and name != self.name:
            raise UnknownModelError(f"There is no model {name!r} here; use {self.name!r}.")

    def check_length(self, prompts: Sequence[Sequence[int]], n_asked: int) -> None:
        """Refuse what could never fit, however empty the cache is.

        Raises:
            ContextLengthError: says how many tokens fit.
        """
        limit = self.llm.engine.max_prompt_tokens + 1
        longest = max(map(len, prompts))
        if longest + n_asked <= limit:
            return
        self.metrics.refused("too_long")
        if longest >= limit:
            raise ContextLengthError(
                f"The prompt has {longest} tokens but at most {limit - 1} fit; shorten it."
            )
        raise ContextLengthError(
            f"The prompt has {longest} tokens and {n_asked} more are asked for, but a text has "
            f"at most {limit} tokens; ask for at most {limit - longest}."
        )

    async def complete(
        self,
        request: Request,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        answer_for: AnswerFactory,
        *,
        stream: bool,
    ) -> Response:
        """Generate, and answer at once or piece by piece."""
        request_id = request.headers.get(_REQUEST_ID) or secrets.token_hex(12)
        generation = self.engine.open(prompts, params, request_id)
        answer = answer_for(generation.groups)
        if stream:
            return EventStream(generation, answer, request_id)
        watch = asyncio.ensure_future(_tell_when_gone(request.receive, generation))
        try:
            async for _ in generation.updates():
                pass
            return JSONResponse(answer.whole(), headers={_REQUEST_ID: request_id})
        finally:
            watch.cancel()
            generation.close()


class EventStream(Response):
    """Server-sent events of a generation, which ends with the response or when the caller goes."""

    media_type = "text/event-stream"

    def __init__(self, generation: Generation, answer: Answer, request_id: str) -> None:
        self._generation = generation
        self._answer = answer
        self.status_code = 200
        self.background = None
        self.init_headers(
            {
                "Cache-Control": "no-cache",
                "X-Accel-Buffering": "no",
                _REQUEST_ID: request_id,
            }
        )

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        watch = asyncio.ensure_future(_tell_when_gone(receive, self._generation))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await self._send_events(send)
            await send({"type": "http.response.body", "body": b""})
        finally:
            watch.cancel()
            self._generation.close()

    async def _send_events(self, send: Send) -> None:
        async def write(events: bytes) -> None:
            if events:
                await send({"type": "http.response.body", "body": events, "more_body": True})

        answer = self._answer
        try:
            await write(answer.opening())
            async for updates in self._generation.updates():
                await write(answer.events(updates))
            await write(answer.closing())
        except Exception as e:
            _, body = describe(e)
            await write(error_event(body))


async def _tell_when_gone(receive: Receive, generation: Generation) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    generation.put(ClientGoneError())
