"""Servers as processes, and a streaming client that costs little beside them.

It shares the machine's cores with the servers, so it reads what there is in one piece.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

_START_SECONDS = 120
_READ_BYTES = 2**16


@dataclass
class Pieces:
    """Tells when so many pieces of an answer have come."""

    wanted: int
    come: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Answer:
    """What came back: the text, and when its pieces came (``time.perf_counter``)."""

    status: int
    sent: float
    times: list[float] = field(default_factory=list)
    text: str = ""
    complete: bool = False
    n_tokens: int = 0  # as the server counts them

    @property
    def ttft(self) -> float:
        return self.times[0] - self.sent

    @property
    def gaps(self) -> list[float]:
        return [b - a for a, b in zip(self.times, self.times[1:], strict=False)]


async def complete(
    port: int,
    prompt: list[int],
    max_tokens: int,
    *,
    leave_after: int | None = None,
    pieces: Pieces | None = None,
    every_token: bool = False,
) -> Answer:
    """Stream a greedy completion; hang up after ``leave_after`` pieces if asked to.

    A token that is but a part of a character brings no text, and so no piece, unless
    ``every_token`` asks for them all (by their logprobs).
    """
    body: dict[str, object] = {
        **{"prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True},
        **{"stream": True, "stream_options": {"include_usage": True}},
    }
    if every_token:
        body["logprobs"] = 0
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        data = json.dumps(body).encode()
        answer = Answer(0, time.perf_counter())
        writer.write(
            b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(data) + data
        )
        answer.status = int((await reader.readline()).split()[1])
        while (await reader.readline()).strip():
            pass
        if answer.status == 200:
            await _read_events(reader, answer, leave_after, pieces)
        return answer
    finally:
        writer.close()


async def _read_events(
    reader: asyncio.StreamReader,
    answer: Answer,
    leave_after: int | None,
    pieces: Pieces | None,
) -> None:
    """Lines that are no events (chunk sizes, blank ones) are passed over."""
    rest = b""
    while data := await reader.read(_READ_BYTES):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data: "):
                _take_event(line[6:], answer)
        if pieces is not None and len(answer.times) >= pieces.wanted:
            pieces.come.set()
        left = leave_after is not None and len(answer.times) >= leave_after
        if answer.complete or left:
            return


def _take_event(data: bytes, answer: Answer) -> None:
    if data.startswith(b"[DONE]"):
        answer.complete = True
        return
    event = json.loads(data)
    if usage := event.get("usage"):
        answer.n_tokens = usage["completion_tokens"]
    for choice in event.get("choices", []):
        if choice.get("text") or choice.get("logprobs"):
            answer.times.append(time.perf_counter())
            answer.text += choice.get("text") or ""


async def get(port: int, path: str) -> str:
    """A page of the server."""

    def read() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as response:
            return response.read().decode()

    return await asyncio.to_thread(read)


async def sample_memory(pid: int, samples: list[int], interval_seconds: float = 1.0) -> None:
    """Resident bytes of a process, until cancelled."""
    while True:
        if Path("/proc").is_dir():
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            samples.append(pages * os.sysconf("SC_PAGE_SIZE"))
        else:
            out = subprocess.check_output(["ps", "-o", "rss=", "-p", str(pid)])
            samples.append(int(out) * 1024)
        await asyncio.sleep(interval_seconds)


class _Process:
    """A server as a process, from ready to ended."""

    def __init__(self, command: list[str], port: int) -> None:
        self.port = port
        self._command = command

    def __enter__(self) -> _Process:
        self.process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + _START_SECONDS
        while not self._is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                raise SystemExit(f"{self._command[0]} does not start; try {self._command}.")
            time.sleep(0.1)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None
    ) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as r:
                return bool(r.status == 200)
        except (OSError, urllib.error.HTTPError):
            return False


class ServerProcess(_Process):
    """``longbow-quarrel serve``."""

    def __init__(self, model: str, n_threads: int, flags: list[str]) -> None:
        port = free_port()
        command = [sys.executable, "-m", "longbow_quarrel.cli", "serve", "-m", model]
        super().__init__([*command, "-t", str(n_threads), "--port", str(port), *flags], port)


class Peer(_Process):
    """llama-server, with a slot of 1,024 tokens for each client."""

    def __init__(self, binary: Path, model: str, n_threads: int, n_slots: int) -> None:
        port = free_port()
        threads = str(n_threads)
        command = [str(binary), "-m", model, "--port", str(port), "-np", str(n_slots)]
        command += ["-c", str(1024 * n_slots), "-t", threads, "-tb", threads]
        super().__init__(command, port)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as s:
        return int(s.getsockname()[1])
