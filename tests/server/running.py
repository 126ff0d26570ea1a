"""A server that the tests talk to."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import FastAPI

from longbow_quarrel import LLM


@dataclass(frozen=True)
class Running:
    url: str
    llm: LLM
    app: FastAPI
    stop: Callable[[], None]

    def wait_until_idle(self) -> None:
        """Until no sequence and no block is held; fails after some seconds."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            stats = self.llm.engine.runner.cache.stats()
            if (stats.n_sequences, stats.n_used_blocks) == (0, 0):
                return
            time.sleep(0.01)
        raise AssertionError(f"{stats.n_sequences} sequences hold {stats.n_used_blocks} blocks")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
