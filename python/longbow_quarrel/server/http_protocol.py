"""HTTP on a connection: uvicorn's parser, with limits on what comes before and between bodies."""

from __future__ import annotations

import asyncio
import json

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from longbow_quarrel.server.errors import error_body

_HEAD_BYTES = 64 * 1024
_HEAD_SECONDS = 30.0


class LimitedProtocol(HttpToolsProtocol):
    """Closes a connection whose request line and headers are too long, or do not come.

    The parser in C keeps a header until it is complete, however long it is.
    """

    _n_outside_bodies = 0  # bytes, since the last one of a body
    _too_slow: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_there()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._n_outside_bodies += len(data)
        super().data_received(data)
        if self._n_outside_bodies > _HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response(f"The headers are longer than {_HEAD_BYTES} bytes.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._wait_for_head()

    def on_headers_complete(self) -> None:
        self._head_is_there()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._n_outside_bodies = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._n_outside_bodies = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answers in OpenAI's form, too."""
        body = json.dumps(error_body(msg)).encode()
        head = "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\n"
        self.transport.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        self.transport.close()

    def _wait_for_head(self) -> None:
        if self._too_slow is None:
            self._too_slow = self.loop.call_later(_HEAD_SECONDS, self._close)

    def _head_is_there(self) -> None:
        if self._too_slow is not None:
            self._too_slow.cancel()
            self._too_slow = None

    def _close(self) -> None:
        self._too_slow = None
        self.transport.close()
