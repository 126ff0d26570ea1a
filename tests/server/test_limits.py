"""What the server refuses, what it survives, and that nothing stays behind."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from urllib.parse import urlsplit

import httpx
import pytest

from server.conftest import tiny_llm
from server.running import Running

ENDLESS = {"prompt": "a", "max_tokens": 250, "temperature": 0, "ignore_eos": True}


def post(server: Running, path: str, body: object, **options: object) -> httpx.Response:
    return httpx.post(server.url + path, json=body, timeout=60, **options)


def error(response: httpx.Response) -> dict[str, str | None]:
    body = response.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    return body["error"]


def slow_steps(monkeypatch: pytest.MonkeyPatch, server: Running, seconds: float = 0.02) -> None:
    run = server.llm.engine.runner.run

    def slow(chunks):
        time.sleep(seconds)
        return run(chunks)

    monkeypatch.setattr(server.llm.engine.runner, "run", slow)


@pytest.fixture(scope="module")
def guarded(serve) -> Running:
    """Small limits, and a key."""
    return serve(tiny_llm(max_num_seqs=2), api_key="sésame", max_queue=1, max_body=2000)


KEY = {"Authorization": b"Bearer " + "sésame".encode()}


@pytest.mark.parametrize(
    "header", [None, "Bearer wrong", "sésame", "Basic sésame", "Bearer", "Bearer sésamee"]
)
@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/openapi.json", "/nowhere"])
def test_without_the_key_nothing_is_served(guarded, header, path):
    headers = {} if header is None else {"Authorization": header.encode()}
    response = httpx.get(guarded.url + path, headers=headers)
    assert response.status_code == 401
    assert error(response)["code"] == "invalid_api_key"
    assert response.headers["www-authenticate"] == "Bearer"


def test_with_the_key_all_is_served_and_health_asks_for_none(guarded):
    assert httpx.get(guarded.url + "/v1/models", headers=KEY).status_code == 200
    assert httpx.get(guarded.url + "/health").json() == {"status": "ok"}


def test_a_large_body_is_refused_whether_or_not_it_says_so(guarded):
    large = {"content": "x" * 3000}
    assert post(guarded, "/tokenize", large, headers=KEY).status_code == 413
    chunked = iter([json.dumps(large).encode()])
    headers = KEY | {"Content-Type": "application/json"}
    response = httpx.post(guarded.url + "/tokenize", content=chunked, headers=headers)
    assert response.status_code == 413
    assert "2000 bytes" in error(response)["message"]
    assert post(guarded, "/tokenize", {"content": "x" * 1000}, headers=KEY).status_code == 200


def test_a_full_queue_says_when_to_come_back(guarded, monkeypatch):
    slow_steps(monkeypatch, guarded)
    answers: list[httpx.Response] = []

    def ask() -> None:
        answers.append(post(guarded, "/v1/completions", ENDLESS | {"max_tokens": 40}, headers=KEY))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(a.status_code for a in answers) == [200] * 3 + [429] * 3
    refused = next(a for a in answers if a.status_code == 429)
    assert int(refused.headers["retry-after"]) >= 1
    assert error(refused)["code"] == "queue_full"
    guarded.wait_until_idle()


def test_a_request_that_takes_too_long_is_ended(serve, monkeypatch):
    impatient = serve(tiny_llm(), request_timeout=0.5)
    slow_steps(monkeypatch, impatient, 0.1)
    started = time.monotonic()
    response = post(impatient, "/v1/completions", ENDLESS)
    assert time.monotonic() - started < 10
    assert (response.status_code, error(response)["code"]) == (503, "timeout")
    impatient.wait_until_idle()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 3])
def test_a_caller_who_hangs_up_frees_the_blocks(server, monkeypatch, stream, n):
    slow_steps(monkeypatch, server)
    address = urlsplit(server.url)
    connection = http.client.HTTPConnection(address.hostname, address.port)
    body = json.dumps(ENDLESS | {"stream": stream, "n": n})
    connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
    cache = server.llm.engine.runner.cache
    while cache.stats().n_sequences < n:
        time.sleep(0.01)
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()
    server.wait_until_idle()


def test_an_engine_failure_fails_its_requests_without_internals(server, monkeypatch):
    def broken(_chunks):
        raise RuntimeError("secret path /home/somebody")

    with monkeypatch.context() as patch:
        patch.setattr(server.llm.engine.runner, "run", broken)
        response = post(server, "/v1/completions", {"prompt": "a", "max_tokens": 4})
        assert (response.status_code, error(response)["code"]) == (500, "engine_error")
        assert "secret" not in response.text
        stream = post(server, "/v1/completions", {"prompt": "a", "max_tokens": 4, "stream": True})
        *_, last, done = stream.text.strip().split("\n\n")
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_error"
        assert done == "data: [DONE]"
        assert "secret" not in stream.text
    assert post(server, "/v1/completions", {"prompt": "a", "max_tokens": 4}).status_code == 200
    server.wait_until_idle()


def test_what_the_cache_can_never_hold_is_refused_with_what_fits(serve):
    bytes_per_token = tiny_llm().engine.runner.kv_bytes_per_token
    small = serve(tiny_llm(kv_cache_memory=bytes_per_token * 64))
    response = post(small, "/v1/completions", {"prompt": [5] * 70, "max_tokens": 4})
    assert response.status_code == 400
    assert "has 70 tokens but at most 63 fit" in error(response)["message"]
    response = post(small, "/v1/completions", {"prompt": [5] * 60, "max_tokens": 10})
    assert response.status_code == 400
    assert "ask for at most 4" in error(response)["message"]
    response = post(small, "/v1/completions", ENDLESS | {"prompt": [5] * 60, "max_tokens": 4})
    assert response.json()["usage"]["completion_tokens"] == 4


def test_several_texts_that_do_not_fit_together_take_turns(serve):
    bytes_per_token = tiny_llm().engine.runner.kv_bytes_per_token
    small = serve(tiny_llm(kv_cache_memory=bytes_per_token * 80, max_num_seqs=4))
    body = ENDLESS | {"prompt": [[5 + i] * 20 for i in range(6)], "max_tokens": 30}
    choices = post(small, "/v1/completions", body).json()["choices"]
    alone = [
        post(small, "/v1/completions", body | {"prompt": p}).json()["choices"][0]["text"]
        for p in body["prompt"]
    ]
    assert [c["text"] for c in choices] == alone
    small.wait_until_idle()


def test_no_browser_may_call_unless_told(server, serve):
    origin = {"Origin": "https://example.org"}
    assert (
        "access-control-allow-origin"
        not in httpx.get(server.url + "/health", headers=origin).headers
    )
    opened = serve(tiny_llm(), cors_origin="https://example.org", api_key="k")
    headers = origin | {"Access-Control-Request-Method": "POST"}
    preflight = httpx.options(opened.url + "/v1/completions", headers=headers)
    assert preflight.headers["access-control-allow-origin"] == "https://example.org"


def test_a_body_that_is_no_json_of_ours(server):
    headers = {"Content-Type": "application/json"}
    response = httpx.post(server.url + "/tokenize", content=b"{", headers=headers)
    assert (response.status_code, error(response)["message"]) == (400, "The body is no valid JSON.")
    response = httpx.post(server.url + "/tokenize", content=b'{"content":"a"}')
    assert response.status_code == 400
    broken = {"content": "a", "metadata\ud800": 1}
    response = httpx.post(server.url + "/tokenize", content=json.dumps(broken), headers=headers)
    assert response.status_code == 400
    assert httpx.get(server.url + "/tokenize").status_code == 405
    assert error(httpx.get(server.url + "/../../etc/passwd"))["message"] == "Not Found"


def test_tokens_and_back(server):
    text = "hello, you there"
    tokens = post(server, "/tokenize", {"content": text}).json()["tokens"]
    assert tokens == server.llm.tokenize(text, add_special=False)
    assert post(server, "/detokenize", {"tokens": tokens}).json() == {"content": text}
    assert post(server, "/detokenize", {"tokens": [10**6]}).status_code == 400


def test_draining_lets_a_stream_finish(serve, monkeypatch):
    server = serve(tiny_llm())
    slow_steps(monkeypatch, server)
    body = ENDLESS | {"max_tokens": 30, "stream": True}
    with httpx.stream("POST", server.url + "/v1/completions", json=body, timeout=60) as response:
        pieces = response.iter_lines()
        next(pieces)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        lines = [line for line in pieces if line]
    assert lines[-1] == "data: [DONE]"
    stopping.join(60)
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url + "/health")
    server.wait_until_idle()
