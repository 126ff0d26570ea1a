"""The engine in its own thread: updates, limits, ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from longbow_quarrel import LLM, SamplingParams
from longbow_quarrel.engine_thread import EngineThread, Update
from longbow_quarrel.errors import EngineStoppedError, QueueFullError, UsageError
from longbow_quarrel.request import Request

FOREVER = SamplingParams(max_tokens=100_000, temperature=0, ignore_eos=True)


def greedy(max_tokens: int = 8, **others: object) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, temperature=0, ignore_eos=True, **others)


class Inbox:
    """Collects what the thread delivers."""

    def __init__(self) -> None:
        self.updates: list[Update] = []
        self._news = threading.Condition()

    def __call__(self, updates: list[Update]) -> None:
        with self._news:
            self.updates += updates
            self._news.notify_all()

    def of(self, request: Request) -> list[Update]:
        return [u for u in self.updates if u.request is request]

    def wait_for(self, request: Request, n_tokens: int | None = None) -> None:
        """Until it has so many tokens, or has ended."""

        def there() -> bool:
            return any(
                u.finish_reason or (n_tokens is not None and u.n_tokens >= n_tokens)
                for u in self.of(request)
            )

        with self._news:
            assert self._news.wait_for(there, timeout=60)


@pytest.fixture
def llm(tiny_llm) -> LLM:
    return tiny_llm("qwen3", cache="paged", max_num_seqs=2)


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


@pytest.fixture
def thread(llm: LLM, inbox: Inbox) -> Iterator[EngineThread]:
    thread = EngineThread(llm.engine, max_queue=2, deliver=inbox)
    thread.start()
    yield thread
    thread.stop()
    stats = llm.engine.runner.cache.stats()
    assert (stats.n_used_blocks, stats.n_sequences) == (0, 0)


def test_updates_add_up_to_the_text(tiny_llm, thread, inbox):
    [expected] = tiny_llm("qwen3").generate([[5, 6, 7]], greedy(20, logprobs=1))
    [[request]] = thread.submit([[5, 6, 7]], greedy(20, logprobs=1))
    inbox.wait_for(request)
    updates = inbox.of(request)
    assert "".join(u.text for u in updates) == expected.text
    assert [p for u in updates for p in u.logprobs] == expected.logprobs
    assert [u.n_tokens for u in updates] == list(range(1, 21))
    assert [u.finish_reason for u in updates] == [None] * 19 + ["length"]


def test_texts_run_together_and_more_wait(tiny_llm, thread, inbox):
    alone = tiny_llm("qwen3")
    groups = thread.submit([[5], [6, 7]], greedy(n=2))
    for group, prompt in zip(groups, [[5], [6, 7]], strict=True):
        [expected, _] = alone.generate([prompt], greedy(n=2))
        for request in group:
            inbox.wait_for(request)
            assert request.output_ids == expected.token_ids
    assert thread.n_unfinished == 0


def test_a_full_queue_refuses_and_says_when_to_come_back(thread, inbox):
    requests = [thread.submit([[5 + i]], FOREVER)[0][0] for i in range(4)]
    with pytest.raises(QueueFullError, match="4 requests") as refused:
        thread.submit([[9]], greedy())
    assert 1 <= refused.value.retry_after_seconds <= 60
    with pytest.raises(UsageError, match="at most 4"):
        thread.submit([[9]], greedy(n=5))
    inbox.wait_for(requests[0], 3)
    thread.cancel(requests)
    inbox.wait_for(requests[3])
    [[request]] = thread.submit([[9]], greedy())
    inbox.wait_for(request)
    assert request.finish_reason == "length"


def test_all_or_none_is_queued(thread, llm):
    with pytest.raises(UsageError):
        thread.submit([[5], []], greedy())
    assert thread.n_unfinished == 0
    assert thread.call(lambda: llm.engine.scheduler.n_waiting).result(timeout=60) == 0


def test_calls_run_between_steps_and_hand_errors_back(thread):
    name = thread.call(lambda: threading.current_thread().name).result(timeout=60)
    assert name == "engine"
    with pytest.raises(ZeroDivisionError):
        thread.call(lambda: 1 // 0).result(timeout=60)


def test_closing_lets_those_there_finish(thread, inbox):
    [[request]] = thread.submit([[5]], greedy(50))
    thread.close()
    with pytest.raises(EngineStoppedError, match="shutting down"):
        thread.submit([[6]], greedy())
    inbox.wait_for(request)
    assert request.finish_reason == "length"


def test_stopping_ends_what_runs_and_what_waits(thread, inbox):
    requests = [thread.submit([[5 + i]], FOREVER)[0][0] for i in range(3)]
    inbox.wait_for(requests[0], 1)
    thread.stop()
    assert [r.finish_reason for r in requests] == ["cancelled"] * 3
    assert all(inbox.of(r)[-1].finish_reason == "cancelled" for r in requests)


def test_a_failing_step_ends_its_requests_and_the_thread_goes_on(llm, thread, inbox, monkeypatch):
    def broken(_chunks):
        raise RuntimeError("the device is gone")

    with monkeypatch.context() as patch:
        patch.setattr(llm.engine.runner, "run", broken)
        [[request]] = thread.submit([[5]], greedy())
        inbox.wait_for(request)
    assert (request.finish_reason, str(request.error)) == ("error", "the device is gone")
    [[request]] = thread.submit([[5]], greedy())
    inbox.wait_for(request)
    assert request.finish_reason == "length"
