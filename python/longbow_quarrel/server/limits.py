"""What stands before the routes: the key, and how large and how slow a request may be."""

from __future__ import annotations

import asyncio
import hashlib
import hmac

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from longbow_quarrel.server.errors import error_body

_BODY_TIMEOUT_SECONDS = 30.0
_PUBLIC = ("/health",)


class RequireKey:
    """Answers 401 unless the caller sends ``Authorization: Bearer KEY``."""

    def __init__(self, app: ASGIApp, *, key: str) -> None:
        self._app = app
        self._digest = hashlib.sha256(key.encode()).digest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _PUBLIC or self._admits(scope):
            await self._app(scope, receive, send)
            return
        body = error_body(
            "The API key is missing or wrong; send it as `Authorization: Bearer KEY`.",
            code="invalid_api_key",
        )
        response = JSONResponse(body, 401, {"WWW-Authenticate": "Bearer"})
        await response(scope, receive, send)

    def _admits(self, scope: Scope) -> bool:
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        # Digests have one length, so comparing them tells nothing about the key's.
        given = hashlib.sha256(key.strip().encode("latin-1")).digest()
        return hmac.compare_digest(given, self._digest) and scheme.lower() == "bearer"


class LimitBody:
    """Takes the whole body before anything else happens; answers 413 or 408 instead.

    Args:
        max_bytes: of a body.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "0")
        if declared.isdecimal() and int(declared) > self._max_bytes:
            await self._too_large(scope, receive, send)
            return
        try:
            body = await asyncio.wait_for(self._read(receive), _BODY_TIMEOUT_SECONDS)
        except asyncio.TimeoutError:
            await _refuse(408, "The request's body did not arrive in time.", scope, receive, send)
            return
        if body is None:
            await self._too_large(scope, receive, send)
            return
        await self._app(scope, _replay(body, receive), send)

    async def _read(self, receive: Receive) -> list[Message] | None:
        """The messages of a body; None if there are too many bytes."""
        messages: list[Message] = []
        n_bytes = 0
        while True:
            message = await receive()
            messages.append(message)
            n_bytes += len(message.get("body", b""))
            if n_bytes > self._max_bytes:
                return None
            if message["type"] != "http.request" or not message.get("more_body", False):
                return messages

    async def _too_large(self, scope: Scope, receive: Receive, send: Send) -> None:
        text = f"The request is larger than {self._max_bytes} bytes; shorten it."
        await _refuse(413, text, scope, receive, send)


def _replay(messages: list[Message], receive: Receive) -> Receive:
    queue = list(reversed(messages))

    async def replay() -> Message:
        return queue.pop() if queue else await receive()

    return replay


async def _refuse(status: int, text: str, scope: Scope, receive: Receive, send: Send) -> None:
    # The rest of the body is not read, so the connection is of no more use.
    response = JSONResponse(error_body(text), status, {"Connection": "close"})
    await response(scope, receive, send)
