"""Runs the application in uvicorn until a signal ends it."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from longbow_quarrel.server.http_protocol import LimitedProtocol

# Threads hand the interpreter to each other this often when both want it. The default of 5 ms is
# as long as a step of a small model: the engine would wait for the event loop that long.
_SWITCH_INTERVAL_SECONDS = 0.0005


def run(
    app: FastAPI, listener: socket.socket, *, drain_seconds: int, ready: Callable[[], None]
) -> None:
    """Serve on a listening socket until SIGINT or SIGTERM.

    Running requests then get ``drain_seconds`` to finish; new ones are not accepted.

    Args:
        ready: called when requests are accepted.
    """
    previous = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_INTERVAL_SECONDS)
    try:
        make_server(app, drain_seconds=drain_seconds, ready=ready).run(sockets=[listener])
    finally:
        sys.setswitchinterval(previous)


def make_server(app: FastAPI, *, drain_seconds: int, ready: Callable[[], None]) -> uvicorn.Server:
    """What :func:`run` runs; ends in an orderly way once its ``should_exit`` is set."""
    config = uvicorn.Config(
        app,
        http=LimitedProtocol,
        ws="none",
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=drain_seconds,
        server_header=False,
    )
    server = uvicorn.Server(config)
    startup = server.startup

    async def start(sockets: list[socket.socket] | None = None) -> None:
        await startup(sockets=sockets)
        if server.started:
            ready()

    server.startup = start  # type: ignore[method-assign]
    return server
