"""Workloads do what they say, the same every time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from longbow_quarrel import LLM, SamplingParams
from longbow_quarrel.profiling import Recorder, chat_load, prompt_load, serve_load

Load = Callable[..., LLM]
GREEDY = SamplingParams(max_tokens=6, temperature=0, ignore_eos=True)


def test_a_prompt(tiny_llm: Load) -> None:
    llm = tiny_llm("llama3")
    with Recorder(llm.engine) as recorder:
        prompt_load(llm, [5] * 30, GREEDY)
    [request] = recorder.recording.requests
    assert (request.n_prompt, request.n_generated) == (30, 6)


@pytest.mark.parametrize("name", ["llama3", "gemma3"])  # with a template and without
def test_a_conversation_finds_its_earlier_turns(tiny_llm: Load, name: str) -> None:
    llm = tiny_llm(name, cache="paged", context_length=1024)
    with Recorder(llm.engine) as recorder:
        chat_load(llm, GREEDY)
    requests = list(recorder.recording.requests)
    assert len(requests) == 3
    assert requests[0].cached_tokens == 0
    for before, after in zip(requests, requests[1:], strict=False):  # noqa: RUF007
        assert after.n_prompt > before.n_prompt + before.n_generated
        assert after.cached_tokens > 0


def test_clients_ask_again_until_time_is_up(tiny_llm: Load) -> None:
    llm = tiny_llm("llama3", cache="paged", max_num_seqs=4)
    with Recorder(llm.engine) as recorder:
        n = serve_load(llm.engine, clients=3, seconds=0.3, n_prompt=24, max_tokens=6)
    requests = recorder.recording.requests
    assert n == len(requests) >= 3
    assert all(r.finish_reason == "length" for r in requests)
    assert all(12 <= r.n_prompt <= 24 and 3 <= r.n_generated <= 6 for r in requests)
    running = {level.running for level in recorder.recording.levels}
    assert max(running) == 3
    assert llm.engine.runner.cache.stats().n_sequences == 0


def test_without_time_every_client_asks_once(tiny_llm: Load) -> None:
    llm = tiny_llm("llama3", cache="paged")
    assert serve_load(llm.engine, clients=5, seconds=0, n_prompt=8, max_tokens=2) == 5


def test_an_error_of_the_engine_is_the_callers(
    tiny_llm: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = tiny_llm("llama3")
    monkeypatch.setattr(llm.engine.runner, "run", lambda _chunks: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        serve_load(llm.engine, clients=2, seconds=5, n_prompt=8, max_tokens=2)
