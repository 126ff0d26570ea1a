"""``serve`` as a process: where it listens, how it ends."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


def _url(process) -> str:
    line = process.stderr.readline().decode()
    assert " at http://" in line, line + process.stderr.read().decode()
    return line.split(" at ")[1].strip()


def _post(url: str, body: object):
    data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
    return urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=60)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(start, llama3, number):
    process = start("serve", "-m", llama3, "--port", 0, "-a", "small", "-t", 2)
    url = _url(process)
    assert url.startswith("http://127.0.0.1:")
    models = json.load(urllib.request.urlopen(url + "/v1/models", timeout=60))
    assert [m["id"] for m in models["data"]] == ["small"]
    body = {"prompt": "a", "max_tokens": 200, "ignore_eos": True, "stream": True}
    with _post(url + "/v1/completions", body) as stream:
        stream.readline()
        process.send_signal(number)
        rest = stream.read().decode()
    assert rest.endswith("data: [DONE]\n\n")
    assert '"finish_reason":"length"' in rest
    assert process.wait(30) == 0
    assert process.stderr.read() == b""


def test_the_readmes_commands_work(start, llama3):
    if shutil.which("curl") is None:
        pytest.skip("curl is missing; install it for this test")
    url = _url(start("serve", "-m", llama3, "--port", 0))
    text = README.read_text(encoding="utf-8").replace("\\\n", " ")
    answers = []
    for command in re.findall(r"^    (curl .*)$", text, re.MULTILINE):
        arguments = shlex.split(command.replace("http://127.0.0.1:8080", url))
        answers.append(subprocess.check_output([*arguments, "-sS"], timeout=60).decode())
    chat, stream, metrics = answers
    assert json.loads(chat)["choices"][0]["message"]["role"] == "assistant"
    assert stream.endswith("data: [DONE]\n\n")
    assert "quarrel_generation_tokens_total{" in metrics


def test_the_cache_is_paged_unless_told_otherwise(start, llama3):
    for arguments, strategy in ([], "paged"), (["--cache", "contiguous"], "contiguous"):
        url = _url(start("serve", "-m", llama3, "--port", 0, *arguments))
        metrics = urllib.request.urlopen(url + "/metrics", timeout=60).read().decode()
        assert f'model="llama3",strategy="{strategy}"' in metrics


def test_a_port_in_use_is_said_at_once(cli, llama3):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = cli("serve", "-m", llama3, "--port", taken.getsockname()[1])
    assert result.code == 2
    assert "choose another --host or --port" in result.err
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize(
    "option", [("--port", "70000"), ("--max-queue", "-1"), ("--host", "no.such.host.invalid")]
)
def test_misuse_is_one_sentence(cli, llama3, option):
    result = cli("serve", "-m", llama3, *option)
    assert result.code == 2
    assert len(result.err.splitlines()) == 1


def test_a_killed_server_leaves_its_prefix_cache(start, llama3, tmp_path):
    file = tmp_path / "cache"
    arguments = ("-m", llama3, "--port", 0, "--prefix-cache-file", file)
    first = start("serve", *arguments, "--prefix-cache-save-interval", "0.1")
    url = _url(first)
    body = {"prompt": list(range(5, 105)), "max_tokens": 8, "temperature": 0}
    answer = json.load(_post(url + "/v1/completions", body))
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    deadline = time.monotonic() + 60
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)  # it may have been saved while the request was running
    first.kill()
    first.wait(30)
    url = _url(start("serve", *arguments))
    again = json.load(_post(url + "/v1/completions", body))
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == 96
    assert again["choices"] == answer["choices"]
