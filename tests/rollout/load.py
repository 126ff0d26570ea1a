"""Callers who keep a server busy and remember what they were told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx


@dataclass(frozen=True)
class Answer:
    """``seed`` stands for the whole request, see :func:`body_of`."""

    request_id: str
    seed: int
    status: int
    text: str


def body_of(seed: int) -> dict[str, object]:
    """A request that follows from its seed."""
    prompt = [5 + (7 * seed + k * k) % 90 for k in range(20 + seed % 40)]
    return {"prompt": prompt, "max_tokens": 24, "seed": seed, "ignore_eos": True}


@dataclass
class Load:
    """Four callers, each asking again as soon as it has its answer.

    Every seed comes up again and again, under another request id.
    """

    url: str
    n_seeds: int = 24
    answers: list[Answer] = field(default_factory=list)

    def __enter__(self) -> Load:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(i,)) for i in range(4)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self, caller: int) -> None:
        with httpx.Client(timeout=60) as client:
            n = 0
            while not self._stop.is_set():
                n += 1
                seed, name = (caller + 4 * n) % self.n_seeds, f"caller-{caller}-{n}"
                answer = client.post(
                    f"{self.url}/v1/completions", json=body_of(seed), headers={"X-Request-Id": name}
                )
                assert answer.headers["X-Request-Id"] == name
                text = answer.json()["choices"][0]["text"] if answer.status_code == 200 else ""
                self.answers.append(Answer(name, seed, answer.status_code, text))

    def until(self, condition: Callable[[], bool], *, more: int = 0) -> None:
        """Go on until ``condition`` holds and then for some answers more."""
        deadline = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < deadline, "it did not happen in two minutes"
            time.sleep(0.02)
        n = len(self.answers) + more
        while len(self.answers) < n:
            assert time.monotonic() < deadline
            time.sleep(0.02)
