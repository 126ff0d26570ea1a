"""Nobody waits for somebody else's step, slow line or text, and no text is taken for a program."""

from __future__ import annotations

import contextlib
import hmac
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx
import pytest

from longbow_quarrel.server import http_protocol, limits
from server.conftest import tiny_llm
from server.running import Running


@contextmanager
def held_up(monkeypatch: pytest.MonkeyPatch, server: Running) -> Iterator[None]:
    """The engine is inside a step all the time."""
    computing, go_on = threading.Event(), threading.Event()
    run = server.llm.engine.runner.run

    def hold(chunks):
        computing.set()
        assert go_on.wait(60)
        return run(chunks)

    body = {"prompt": "a", "max_tokens": 2, "temperature": 0}
    caller = threading.Thread(
        target=lambda: httpx.post(server.url + "/v1/completions", json=body, timeout=60)
    )
    with monkeypatch.context() as patch:
        patch.setattr(server.llm.engine.runner, "run", hold)
        caller.start()
        assert computing.wait(60)
        try:
            yield
        finally:
            go_on.set()
            caller.join()


def test_everything_but_tokens_is_answered_during_a_step(server, monkeypatch):
    with held_up(monkeypatch, server), httpx.Client(base_url=server.url, timeout=10) as client:
        for path in ("/health", "/v1/models", "/metrics", "/openapi.json"):
            assert client.get(path).status_code == 200
        assert client.post("/tokenize", json={"content": "a"}).status_code == 200
        assert client.post("/v1/completions", json={"prompt": []}).status_code == 400
        body = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1, "stream": True}
        with client.stream("POST", "/v1/chat/completions", json=body) as stream:
            opening = next(stream.iter_lines())
        assert json.loads(opening.removeprefix("data: "))["choices"][0]["delta"]["content"] == ""
    server.wait_until_idle()


def test_a_caller_who_does_not_read_holds_nobody_up(server):
    address = urlsplit(server.url)
    body = json.dumps(
        {
            **{"prompt": "a", "max_tokens": 240, "temperature": 0, "ignore_eos": True},
            **{"stream": True, "n": 4, "logprobs": 20},
        }
    ).encode()
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect((address.hostname, address.port))
        head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        deaf.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert deaf.recv(8)
        answer = httpx.post(
            server.url + "/v1/completions", json={"prompt": "b", "max_tokens": 4}, timeout=60
        )
        assert answer.status_code == 200
        server.wait_until_idle()  # the texts end although nobody reads them


def test_a_body_that_does_not_come_is_not_waited_for(serve, monkeypatch):
    monkeypatch.setattr(limits, "_BODY_TIMEOUT_SECONDS", 0.2)
    server = serve(tiny_llm())
    with connect(server) as slow:
        slow.sendall(b"POST /tokenize HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n{")
        assert slow.recv(1000).startswith(b"HTTP/1.1 408 ")


def connect(server: Running) -> socket.socket:
    address = urlsplit(server.url)
    return socket.create_connection((address.hostname, address.port), timeout=30)


def read_all(connection: socket.socket) -> bytes:
    data = b""
    try:
        while piece := connection.recv(65536):
            data += piece
    except ConnectionResetError:  # it was closed while there was more to read
        pass
    return data


@pytest.mark.parametrize(
    "start",
    [
        b"GET /health HTTP/1.1\r\nX: ",
        b"GET /",
        b"POST /tokenize HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;",
        b"POST /tokenize HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ",
    ],
)
def test_headers_without_an_end_are_cut_off(server, start):
    with connect(server) as endless:
        endless.sendall(start)
        n_sent = 0
        with contextlib.suppress(ConnectionError):
            while n_sent < 2**24:
                n_sent += endless.send(b"x" * 2**14)
        assert n_sent < 2**24
    assert httpx.get(server.url + "/health").status_code == 200


def test_a_head_that_does_not_come_is_not_waited_for(server, monkeypatch):
    monkeypatch.setattr(http_protocol, "_HEAD_SECONDS", 0.2)
    for start in (b"", b"GET /health HTTP/1.1\r\nHost:"):
        with connect(server) as slow:
            slow.sendall(start)
            assert read_all(slow) == b""


def test_what_is_no_http_is_refused_in_openais_form(server):
    with connect(server) as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        head, body = read_all(connection).split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["error"]["type"] == "invalid_request_error"


def test_keys_are_compared_in_constant_time(monkeypatch):
    """What is compared has one length whatever was sent, and goes through ``compare_digest``."""
    compared: list[tuple[bytes, bytes]] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return hmac.compare_digest(a, b)

    class Spy:
        compare_digest = staticmethod(compare)

    monkeypatch.setattr(limits, "hmac", Spy)
    guard = limits.RequireKey(lambda *_: None, key="secret")
    for key, right in [("", False), ("s", False), ("secret", True), ("secret" * 100, False)]:
        scope = {"type": "http", "headers": [(b"authorization", b"Bearer " + key.encode())]}
        assert guard._admits(scope) is right
    assert {(len(a), len(b)) for a, b in compared} == {(32, 32)}


@pytest.mark.parametrize(
    "text",
    [
        "{{ 7 * 7 }}",
        "{% include '/etc/passwd' %}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ raise_exception('x') }}",
    ],
)
def test_a_prompt_is_never_a_template(server, alone, text):
    rendered = alone.render_chat([{"role": "user", "content": text}])
    assert text in rendered
    ids = alone.encode_chat([{"role": "user", "content": text}])
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 1}
    answer = httpx.post(server.url + "/v1/chat/completions", json=body, timeout=60)
    assert answer.json()["usage"]["prompt_tokens"] == len(ids)
