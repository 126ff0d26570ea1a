"""The server in a thread of this process, listening on a port of its own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest

from longbow_quarrel import LLM, EngineConfig
from longbow_quarrel.config import ServerConfig
from longbow_quarrel.server import create_app
from longbow_quarrel.server.run import make_server
from server.running import Running

TINY = Path(__file__).parents[1] / "data" / "models" / "llama3.gguf"


def tiny_llm(**config: object) -> LLM:
    values = {"n_threads": 2, "cache": "paged", "max_num_seqs": 4} | config
    return LLM(TINY, config=EngineConfig(**values))


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[..., Running]]:
    """Start a server: ``serve(llm, api_key=…)``; stopped when the module's tests are done."""
    stops: list[Callable[[], None]] = []

    def start(llm: LLM, **config: object) -> Running:
        app = create_app(llm, ServerConfig(**config), model="tiny")
        listener = socket.create_server(("127.0.0.1", 0))
        ready = threading.Event()
        server = make_server(app, drain_seconds=5, ready=ready.set)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()

        def stop() -> None:
            server.should_exit = True
            thread.join()

        stops.append(stop)
        assert ready.wait(60)
        return Running(f"http://127.0.0.1:{listener.getsockname()[1]}", llm, app, stop)

    yield start
    for stop in stops:
        stop()


@pytest.fixture(scope="module")
def server(serve: Callable[..., Running]) -> Running:
    return serve(tiny_llm())


@pytest.fixture(scope="module")
def alone() -> LLM:
    """The same model without a server: what an answer must be."""
    return tiny_llm()


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
        yield client
