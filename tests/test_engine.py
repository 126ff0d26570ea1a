"""The engine's loop: who gets a turn, who shares, who must give way, and what an end frees."""

from __future__ import annotations

import pytest

from longbow_quarrel import LLM, SamplingParams, _core
from longbow_quarrel.engine import Engine
from longbow_quarrel.observer import EngineObserver
from longbow_quarrel.request import Request
from rollout.candidates import LosesBlocks


def greedy(max_tokens: int = 8, **others: object) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, temperature=0, ignore_eos=True, **others)


def drain(engine: Engine) -> None:
    for _ in range(10_000):
        if not (engine.scheduler.running or engine.scheduler.waiting):
            return
        engine.step()
    pytest.fail("the engine does not come to an end")


def assert_nothing_is_held(engine: Engine) -> None:
    stats = engine.runner.cache.stats()
    assert (stats.n_used_blocks, stats.n_sequences) == (0, 0)
    assert engine.scheduler.n_waiting == 0
    engine.runner.cache.check_invariants()


class Counting(EngineObserver):
    def __init__(self) -> None:
        self.computed = 0
        self.phases: set[str] = set()
        self.preempted_requests: list[Request] = []
        self.reasons: set[str] = set()
        self.finishes: list[str | None] = []

    def stepped(self, n_tokens: int, phase: str) -> None:
        self.computed += n_tokens
        self.phases.add(phase)

    def preempted(self, request: Request, reason: str) -> None:
        self.preempted_requests.append(request)
        self.reasons.add(reason)

    def finished(self, request: Request) -> None:
        self.finishes.append(request.finish_reason)


def watched(llm: LLM) -> Counting:
    llm.engine.observer = observer = Counting()
    return observer


@pytest.mark.parametrize("cache", ["contiguous", "paged"])
@pytest.mark.parametrize("n_prompt", [5, 40])
def test_texts_of_one_prompt_compute_it_once(tiny_llm, cache, n_prompt):
    llm = tiny_llm("qwen3", cache=cache, prefix_caching=False)
    observer = watched(llm)
    prompt = list(range(5, 5 + n_prompt))
    params = SamplingParams(max_tokens=20, temperature=1.2, seed=3, n=3, ignore_eos=True)
    together = llm.generate([prompt], params)
    # The first token of each text comes out of the prompt's own logits.
    assert observer.computed == n_prompt + 3 * 19
    assert_nothing_is_held(llm.engine)

    forkless = tiny_llm("qwen3", cache=cache, max_num_seqs=1)
    assert [o.token_ids for o in forkless.generate([prompt], params)] == [
        o.token_ids for o in together
    ]


def test_a_prompt_in_chunks_never_holds_up_those_who_decode(tiny_llm):
    llm = tiny_llm("qwen3", max_num_batched_tokens=16, max_num_seqs=4, cache="paged")
    engine = llm.engine
    observer = watched(llm)
    decoding = [r for i in range(3) for r in engine.add([5 + i, 6], greedy(60))]
    engine.step()
    [long] = engine.add([7] * 200, greedy(4))
    while long.timings.first_token is None:
        before = [r.n_tokens for r in decoding]
        engine.step()
        assert [r.n_tokens for r in decoding] == [n + 1 for n in before]
    drain(engine)
    assert observer.phases == {"prefill", "mixed", "decode"}


@pytest.mark.parametrize(
    ("is_read", "expected"), [(True, [5, 5, 5, 32, 32, 21, 1]), (False, [31, 31, 31, 7, 1])]
)
def test_prompts_take_small_chunks_only_while_others_wait_for_tokens(tiny_llm, is_read, expected):
    llm = tiny_llm("qwen3", max_num_batched_tokens=32, max_mixed_prefill_tokens=5, cache="paged")
    engine = llm.engine
    [decoding] = engine.add([5, 6], greedy(4), is_read_as_it_comes=is_read)
    engine.step()
    [long] = engine.add([7] * 100, greedy(2))
    computed = []
    while long.finish_reason is None:
        before = long.n_computed
        engine.step()
        computed.append(long.n_computed - before)
    assert decoding.finish_reason == "length"
    assert computed == expected


def test_more_sequences_than_tokens_of_a_step_still_take_turns(tiny_llm):
    llm = tiny_llm("qwen3", max_num_batched_tokens=3, max_num_seqs=8, cache="paged")
    requests = [r for i in range(8) for r in llm.engine.add([5 + i], greedy(5))]
    drain(llm.engine)
    assert [r.finish_reason for r in requests] == ["length"] * 8


@pytest.mark.parametrize("cache", ["contiguous", "paged"])
def test_nobody_starves_under_a_stream_of_newcomers(tiny_llm, cache):
    """A large request among many small ones, in a cache with room for little more than it."""
    bytes_per_token = tiny_llm("qwen3").engine.runner.kv_bytes_per_token
    llm = tiny_llm("qwen3", cache=cache, kv_cache_memory=bytes_per_token * 192, max_num_seqs=4)
    engine = llm.engine
    observer = watched(llm)
    for i in range(4):
        engine.add([5 + i] * 20, greedy(30))
    [large] = engine.add([9] * 100, greedy(60))
    arrived_before = 5
    for i in range(400):
        if i % 3 == 0 and large.finish_reason is None:
            engine.add([20 + i % 50] * 20, greedy(30))
        engine.step()
        if large.timings.started is None:  # nobody who came later is served before it
            assert len(engine.scheduler.running) + len(observer.finishes) <= arrived_before
    assert large.finish_reason == "length"
    drain(engine)
    assert set(observer.finishes) == {"length"}
    assert_nothing_is_held(engine)


def test_the_preempted_resume_with_the_same_bits(tiny_llm):
    bytes_per_token = tiny_llm("qwen3").engine.runner.kv_bytes_per_token
    prompts = [[5 + i] * 20 for i in range(4)]
    alone = [tiny_llm("qwen3").generate([p], greedy(40))[0].token_ids for p in prompts]
    llm = tiny_llm("qwen3", cache="paged", kv_cache_memory=bytes_per_token * 128)
    observer = watched(llm)
    assert [o.token_ids for o in llm.generate(prompts, greedy(40))] == alone
    assert observer.preempted_requests
    assert observer.reasons == {"no_free_blocks"}
    assert prompts[0][0] not in {int(r.tokens[0]) for r in observer.preempted_requests}  # oldest


class NoMemory:
    """A cache that lacks memory for its tables where it lacks blocks."""

    def __init__(self, cache: _core.KVCache) -> None:
        self._cache = cache

    def reserve(self, sequence: int, n_tokens: int) -> _core.Reservation:
        room = self._cache.reserve(sequence, n_tokens)
        return room if room else _core.Reservation(False, "no_memory")

    def __getattr__(self, name: str) -> object:
        return getattr(self._cache, name)


def test_a_preemption_has_the_reason_that_the_cache_gave(tiny_llm, monkeypatch):
    bytes_per_token = tiny_llm("qwen3").engine.runner.kv_bytes_per_token
    llm = tiny_llm("qwen3", cache="paged", kv_cache_memory=bytes_per_token * 128)
    monkeypatch.setattr(llm.engine.scheduler, "_cache", NoMemory(llm.engine.runner.cache))
    observer = watched(llm)
    llm.generate([[5 + i] * 20 for i in range(4)], greedy(40))
    assert observer.reasons == {"no_memory"}


def test_the_last_to_run_leaves_the_queue_moving_when_it_gives_way(tiny_llm, monkeypatch):
    bytes_per_token = tiny_llm("qwen3").engine.runner.kv_bytes_per_token
    llm = tiny_llm("qwen3", cache="loses-blocks", kv_cache_memory=bytes_per_token * 128)
    engine = llm.engine
    requests = engine.add([5] * 60, greedy(30)) + engine.add([6] * 100, greedy(4))
    engine.step()
    assert engine.scheduler.running == requests[:1]  # there is no room for the other
    strategy = engine.runner.cache
    assert isinstance(strategy, LosesBlocks)
    monkeypatch.setattr(strategy, "free", [])
    monkeypatch.setattr(LosesBlocks, "is_on", True)
    drain(engine)
    assert [r.finish_reason for r in requests] == ["error", "error"]


def test_cancelling_the_first_in_the_queue_lets_the_next_one_in(tiny_llm):
    bytes_per_token = tiny_llm("qwen3").engine.runner.kv_bytes_per_token
    llm = tiny_llm("qwen3", cache="paged", kv_cache_memory=bytes_per_token * 128)
    engine = llm.engine
    engine.add([5] * 60, greedy(30))
    [large] = engine.add([6] * 100, greedy(4))
    [small] = engine.add([7] * 10, greedy(4))
    engine.step()
    assert (large.sequence, small.sequence) == (None, None)
    engine.cancel(large)
    engine.step()
    assert small.sequence is not None
    drain(engine)
    assert_nothing_is_held(engine)


@pytest.mark.parametrize("n_steps", [0, 1, 2, 5])
@pytest.mark.parametrize("which", [[0], [1], [2, 0], [0, 1, 2]])
def test_cancelling_some_texts_of_a_prompt_leaves_the_others(tiny_llm, n_steps, which):
    llm = tiny_llm("qwen3", cache="paged", max_num_batched_tokens=16)
    engine = llm.engine
    requests = engine.add([5] * 20, greedy(12, n=3))
    for _ in range(n_steps):
        engine.step()
    for i in which:
        engine.cancel(requests[i])
    drain(engine)
    expected = ["cancelled" if i in which else "length" for i in range(3)]
    assert [r.finish_reason for r in requests] == expected
    assert_nothing_is_held(engine)


def test_a_failure_reaches_the_texts_that_wait_for_the_prompt(tiny_llm, monkeypatch):
    llm = tiny_llm("qwen3", cache="paged", max_num_batched_tokens=16)

    def broken(_chunks):
        raise RuntimeError("the device is gone")

    requests = llm.engine.add([5] * 20, greedy(12, n=3))
    llm.engine.step()
    with monkeypatch.context() as patch:
        patch.setattr(llm.engine.runner, "run", broken)
        drain(llm.engine)
    assert {str(r.error) for r in requests} == {"the device is gone"}
    assert_nothing_is_held(llm.engine)
    assert llm.generate("hello", greedy())[0].finish_reason == "length"


@pytest.mark.parametrize("method", ["schedule", "fork_followers"])
def test_a_failure_of_the_bookkeeping_ends_requests_not_the_engine(tiny_llm, monkeypatch, method):
    llm = tiny_llm("qwen3", cache="paged")

    def broken(*_):
        raise RuntimeError("miscounted")

    requests = llm.engine.add([5] * 20, greedy(12, n=2))
    with monkeypatch.context() as patch:
        patch.setattr(llm.engine.scheduler, method, broken)
        llm.engine.step()
    assert {str(r.error) for r in requests} == {"miscounted"}
    assert_nothing_is_held(llm.engine)
    assert llm.generate("hello", greedy())[0].finish_reason == "length"
