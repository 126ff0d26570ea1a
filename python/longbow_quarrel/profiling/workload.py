"""Workloads to record: a text, a conversation, and many requests at once as a server gets them.

They are the same every time: fixed seeds, greedy unless parameters say otherwise.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence

from longbow_quarrel.engine import Engine
from longbow_quarrel.engine_thread import EngineThread, Update
from longbow_quarrel.llm import LLM
from longbow_quarrel.sampling import SamplingParams

_SEED = 7
_TURNS = (
    "What does the KV cache of a language model hold?",
    "Why does it make the second token cheaper than the first?",
    "And what happens when it is full?",
)
_QUANTUM = 0.05  # seconds between two looks at the clock


def prompt_load(llm: LLM, prompt: Sequence[int], params: SamplingParams) -> None:
    """One text."""
    llm.generate([list(prompt)], params)


def chat_load(llm: LLM, params: SamplingParams, turns: Sequence[str] = _TURNS) -> None:
    """A conversation; each turn finds the ones before it in the cache.

    A model without a template gets the turns as one growing text.
    """
    if not llm.has_chat_template:
        text: list[int] = []
        for turn in turns:
            text += llm.tokenize(turn, add_special=not text)
            text += llm.generate([text], params)[0].token_ids
        return
    messages: list[dict[str, str]] = []
    for turn in turns:
        messages.append({"role": "user", "content": turn})
        messages.append({"role": "assistant", "content": llm.chat(messages, params).text})


def serve_load(
    engine: Engine, *, clients: int, seconds: float, n_prompt: int, max_tokens: int
) -> int:
    """Clients that ask again as soon as they are answered, for so many seconds.

    Half of all prompts begin with a text that they share, as those of an application do; lengths
    are between half and all of ``n_prompt`` and ``max_tokens``.

    Returns how many requests were answered.
    """
    load = _ServeLoad(engine, clients, n_prompt, max_tokens)
    load.run(seconds)
    return load.n_answered


class _ServeLoad:
    def __init__(self, engine: Engine, clients: int, n_prompt: int, max_tokens: int) -> None:
        self._rng = random.Random(_SEED)
        self._engine = engine
        self._clients = clients
        self._n_prompt = n_prompt
        self._max_tokens = max_tokens
        self._shared = self._tokens(n_prompt // 2)
        self._is_open = False  # who was answered asks again
        self._idle = threading.Event()
        self._thread = EngineThread(engine, max_queue=clients, deliver=self._deliver)
        self.n_answered = 0
        self._errors: list[Exception] = []

    def run(self, seconds: float) -> None:
        self._is_open = seconds > 0
        self._thread.start()
        try:
            for _ in range(self._clients):
                self._ask()
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline and not self._idle.wait(_QUANTUM):
                pass
            self._is_open = False
            while self._thread.n_unfinished and not self._idle.wait(_QUANTUM):
                pass
        finally:
            self._thread.stop()
        if self._errors:
            raise self._errors[0]

    def _tokens(self, n: int) -> list[int]:
        vocabulary = self._engine.vocab_size
        return [self._rng.randrange(vocabulary // 2, vocabulary) for _ in range(n)]

    def _ask(self) -> None:
        n = self._rng.randint(max(2, self._n_prompt // 2), self._n_prompt)
        start = self._shared if self._rng.random() < 0.5 else []
        prompt = [*start[: n - 1], *self._tokens(max(1, n - len(start)))]
        length = self._rng.randint(max(1, self._max_tokens // 2), self._max_tokens)
        params = SamplingParams(max_tokens=length, temperature=0, ignore_eos=True)
        self._thread.submit([prompt], params)

    def _deliver(self, updates: list[Update]) -> None:
        """In the engine's thread: who was answered asks again."""
        for update in updates:
            if update.finish_reason is None:
                continue
            if update.request.error is not None:
                self._errors.append(update.request.error)
                self._is_open = False
            self.n_answered += 1
            if self._is_open:
                self._ask()
        if not self._is_open and not self._thread.n_unfinished:
            self._idle.set()
