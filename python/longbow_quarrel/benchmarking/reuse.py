"""Chats, shared prompts and single documents under a cache that is too small for all of them.

Here an eviction policy matters. Chats begin with one of a few system prompts, popular ones more
often, and come back turn by turn; between them documents are read once and never again, which
push out what is wanted later. Which tokens are hit does not depend on the machine's speed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from longbow_quarrel import _core
from longbow_quarrel.benchmarking.contender import Contender
from longbow_quarrel.benchmarking.load import Loader, RequestTimes
from longbow_quarrel.benchmarking.summary import Summary
from longbow_quarrel.config import EngineConfig
from longbow_quarrel.engine import Engine
from longbow_quarrel.errors import QuarrelError
from longbow_quarrel.memory_plan import Planner

_SEED = 11


@dataclass(frozen=True)
class ReuseWorkload:
    """Sizes of the workload, in tokens where nothing else is said.

    Attributes:
        n_turns: of every chat.
        answer: tokens generated each turn; the next turn's prompt contains them.
        budget_share: of all distinct tokens, how many the cache can hold in the first contender's
            element type; the others get as many bytes.
    """

    n_systems: int = 8
    system: int = 192
    n_chats: int = 24
    n_turns: int = 2
    question: int = 24
    answer: int = 8
    n_documents: int = 24
    document: int = 192
    budget_share: float = 0.2

    @property
    def longest(self) -> int:
        """Tokens of the longest text."""
        chat = self.system + self.n_turns * (self.question + self.answer)
        return max(chat, self.document + self.answer)

    @property
    def n_distinct(self) -> int:
        """Tokens that a cache would hold which forgets nothing."""
        chats = self.n_chats * self.n_turns * (self.question + self.answer)
        documents = self.n_documents * (self.document + self.answer)
        return self.n_systems * self.system + chats + documents

    @property
    def n_open(self) -> int:
        """Chats that go on at the same time."""
        return max(2, self.n_chats // 4)

    @property
    def n_requests(self) -> int:
        return self.n_chats * self.n_turns + self.n_documents

    @property
    def budget(self) -> int:
        """Tokens that the cache can hold; one text at least."""
        return max(int(self.budget_share * self.n_distinct), self.longest)


@dataclass(frozen=True)
class ReuseRow:
    """One contender.

    Attributes:
        kv_cache_bytes: what it had; equal for all.
        hit_tokens: prompt tokens that were in the cache, by ``prefix_cache_hits_total``.
        possible_tokens: those that had been computed before, and could have been.
        recomputed_tokens: those that were computed again.
        hit_rate: of all prompt tokens.
        evicted_blocks: by ``kv_cache_evictions_total{room}``.
        miss_tokens: prompt tokens that were not hit, by the reason that the metrics give.
        refusal: why it could not run; all figures are 0 then.
        ttft: of all requests, None if it could not run.
    """

    contender: str
    kv_cache_bytes: int
    n_requests: int
    prompt_tokens: int
    hit_tokens: int
    possible_tokens: int
    recomputed_tokens: int
    hit_rate: float
    evicted_blocks: int
    miss_tokens: dict[str, int]
    ttft: Summary | None
    seconds: float
    refusal: str = ""


def run_reuse(
    model: Path,
    contenders: Sequence[Contender],
    workload: ReuseWorkload,
    tell: Callable[[str], None],
) -> list[ReuseRow]:
    """The workload once with every contender, one request after the other.

    Args:
        tell: told which contender comes next.
    """
    file = _core.GGUFFile(str(model))
    n_bytes = _budget_bytes(file, contenders[0].config, workload)
    rows = []
    for contender in contenders:
        tell(contender.name)
        config = _sized(contender.config, workload, n_bytes)
        try:
            rows.append(_run_one(model, contender.name, config, workload))
        except QuarrelError as e:
            rows.append(
                ReuseRow(contender.name, n_bytes, 0, 0, 0, 0, 0, 0.0, 0, {}, None, 0.0, str(e))
            )
    return rows


def _sized(config: EngineConfig, workload: ReuseWorkload, n_bytes: int | str) -> EngineConfig:
    return config.model_copy(
        update={
            "context_length": workload.longest,
            "max_num_seqs": workload.n_open,  # a hybrid model keeps as many windows
            "kv_cache_memory": n_bytes,
            "prefix_caching": True,
            "prefix_cache_file": None,
        }
    )


def _budget_bytes(file: _core.GGUFFile, config: EngineConfig, workload: ReuseWorkload) -> int:
    plan = Planner(file, _sized(config, workload, "auto")).plan()
    n_blocks = -(-workload.budget // config.block_size)
    return n_blocks * sum(plan.block_bytes)


def _run_one(model: Path, name: str, config: EngineConfig, workload: ReuseWorkload) -> ReuseRow:
    engine = Engine(model, config)
    loader = Loader(engine, "benchmark")
    texts = _Texts(workload, engine.vocab_size)
    before: list[NDArray[np.int32]] = []  # all that was computed so far, text by text
    times: list[RequestTimes] = []
    n_possible = 0
    for turn in texts.turns:
        prompt = texts.prompt(turn)
        result = loader.run([prompt], workload.answer, watch_peaks=False)
        n_possible += _longest_known(prompt, before)
        text = np.append(prompt, np.array(result.outputs[0], np.int32))
        before.append(text[:-1])  # K and V of the last token were never needed
        texts.note(turn, text)
        times += result.requests
    metrics = loader.scrape()
    loader.close()
    n_prompt = int(metrics["prefix_cache_queries_total"])
    n_hit = int(metrics["prefix_cache_hits_total"])
    reasons = {
        key[len("prefix_cache_miss_total{") : -1]: int(value)
        for key, value in metrics.items()
        if key.startswith("prefix_cache_miss_total{") and value
    }
    return ReuseRow(
        contender=name,
        kv_cache_bytes=int(metrics["kv_cache_capacity_bytes"]),
        n_requests=workload.n_requests,
        prompt_tokens=n_prompt,
        hit_tokens=n_hit,
        possible_tokens=n_possible,
        recomputed_tokens=n_possible - n_hit,
        hit_rate=n_hit / max(n_prompt, 1),
        evicted_blocks=int(metrics["kv_cache_evictions_total{room}"]),
        miss_tokens=reasons,
        ttft=Summary.of([t.ttft for t in times]),
        seconds=sum(t.total for t in times),
    )


def _longest_known(prompt: NDArray[np.int32], texts: Sequence[NDArray[np.int32]]) -> int:
    """Tokens at the beginning of ``prompt`` that some text begins with too, its last one never:
    that one is computed in any case, for its logits."""
    longest = 0
    for text in texts:
        n = min(len(text), len(prompt) - 1)
        differs = np.flatnonzero(text[:n] != prompt[:n])
        longest = max(longest, int(differs[0]) if len(differs) else n)
    return longest


class _Texts:
    """The requests in their order; a chat's prompts grow with its answers."""

    def __init__(self, workload: ReuseWorkload, vocab_size: int) -> None:
        self._random = np.random.default_rng(_SEED)
        self._vocab_size = vocab_size
        systems = [self._ids(workload.system) for _ in range(workload.n_systems)]
        # Zipf: the first prompt is n times as popular as the n-th.
        weights = 1 / np.arange(1, workload.n_systems + 1)
        chosen = self._random.choice(
            workload.n_systems, workload.n_chats, p=weights / weights.sum()
        )
        self._history = {chat: systems[system] for chat, system in enumerate(chosen)}
        self._questions = [
            [self._ids(workload.question) for _ in range(workload.n_turns)]
            for _ in range(workload.n_chats)
        ]
        self._documents = [self._ids(workload.document) for _ in range(workload.n_documents)]
        self.turns = self._order(workload)

    def prompt(self, turn: int | None) -> NDArray[np.int32]:
        """Of the next turn of a chat, or of the next document where ``turn`` is None."""
        if turn is None:
            return self._documents.pop()
        return np.concatenate([self._history[turn], self._questions[turn].pop()])

    def note(self, turn: int | None, text: NDArray[np.int32]) -> None:
        """The prompt and its answer, which the chat's next prompt begins with."""
        if turn is not None:
            self._history[turn] = text

    def _order(self, workload: ReuseWorkload) -> list[int | None]:
        """Chats begin one after the other, so that few are open at a time; whoever is open is
        equally likely to be next. Documents come at random moments."""
        left = dict.fromkeys(range(workload.n_chats), workload.n_turns)
        turns: list[int | None] = []
        while left:
            chat = int(self._random.choice(list(left)[: workload.n_open]))
            turns.append(chat)
            left[chat] -= 1
            if left[chat] == 0:
                del left[chat]
        for _ in range(workload.n_documents):
            turns.insert(int(self._random.integers(len(turns) + 1)), None)
        return turns

    def _ids(self, n: int) -> NDArray[np.int32]:
        return self._random.integers(0, self._vocab_size, n).astype(np.int32)
