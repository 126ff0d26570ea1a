"""Every metric moves when it should, and only then; sums agree; reading waits for nothing."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from longbow_quarrel import LLM, SamplingParams
from longbow_quarrel.engine_thread import EngineThread
from longbow_quarrel.errors import EngineStoppedError, QueueFullError
from longbow_quarrel.telemetry import EngineMetrics
from longbow_quarrel.telemetry.document import markdown
from longbow_quarrel.telemetry.reading import read
from longbow_quarrel.telemetry.registry import ENGINE_LABELS, METRICS, PREFIX

ROOT = Path(__file__).parents[2]
# What dashboards and acceptance checks rely on.
NAMES = [
    "prompt_tokens_total",
    "generation_tokens_total",
    "prefix_cache_queries_total",
    "prefix_cache_hits_total",
    "prefix_cache_miss_total",
    "kv_cache_usage_ratio",
    "kv_cache_used_bytes",
    "kv_cache_capacity_bytes",
    "kv_cache_blocks",
    "kv_cache_evictions_total",
    "kv_block_lifetime_seconds",
    "preemptions_total",
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "e2e_request_latency_seconds",
    "request_queue_time_seconds",
    "request_prefill_time_seconds",
    "request_decode_time_seconds",
    "requests_running",
    "requests_waiting",
    "request_success_total",
    "requests_refused_total",
    "iteration_tokens",
    "attention_kernel_seconds",
    "op_seconds_total",
    "memory_bytes",
    "memory_predicted_bytes",
    "device_memory_allocated_bytes",
    "rollout_requests_total",
    "rollout_divergence_total",
    "rollout_logit_kl",
]


def greedy(max_tokens: int = 8, **others: object) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, temperature=0, ignore_eos=True, **others)


class Watched:
    """An engine and how its metrics have moved since somebody last asked."""

    def __init__(self, llm: LLM, **options: int) -> None:
        self.llm = llm
        self.metrics = EngineMetrics(llm.engine, "tiny", **options)
        self.last = read(self.metrics.render().decode())

    def moved(self) -> dict[str, float]:
        now = read(self.metrics.render().decode())
        before, self.last = self.last, now
        changes = {name: value - before.get(name, 0) for name, value in now.items()}
        return {name: change for name, change in changes.items() if change}

    def generate(self, prompts: object, params: SamplingParams) -> dict[str, float]:
        self.llm.generate(prompts, params)
        return self.moved()


@pytest.fixture
def watch(tiny_llm):
    return lambda **config: Watched(tiny_llm("qwen3", **({"cache": "paged"} | config)))


def test_every_promised_name_is_there(watch):
    watched = watch()
    watched.generate([[5] * 20], greedy())
    text = watched.metrics.render().decode()
    families = {f.name for f in text_string_to_metric_families(text)}
    assert {PREFIX + name.removesuffix("_total") for name in NAMES} <= families
    assert {m.name for m in METRICS} >= set(NAMES)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            assert set(ENGINE_LABELS) <= sample.labels.keys(), sample


def test_the_page_is_the_code():
    assert (ROOT / "docs" / "metrics.md").read_text() == markdown()


def test_nothing_moves_while_nothing_happens(watch):
    assert watch().moved() == {}


def test_a_request_moves_what_it_should(watch):
    moved = watch(max_num_batched_tokens=16).generate([[5] * 20], greedy(8))
    assert moved["prompt_tokens_total"] == 20
    assert moved["generation_tokens_total"] == 8
    assert moved["request_success_total{length}"] == 1
    assert moved["iteration_tokens_sum"] == 20 + 7
    assert moved["iteration_tokens_count"] == 2 + 7
    assert moved["attention_kernel_seconds_count{prefill}"] == 2
    assert moved["attention_kernel_seconds_count{decode}"] == 7
    assert moved["inter_token_latency_seconds_count"] == 7
    for name in ("time_to_first_token", "e2e_request_latency", "request_queue_time"):
        assert moved[f"{name}_seconds_count"] == 1
    for name in ("request_prefill_time", "request_decode_time"):
        assert moved[f"{name}_seconds_count"] == 1
        assert 0 < moved[f"{name}_seconds_sum"] < moved["e2e_request_latency_seconds_sum"]
    spent = moved["attention_kernel_seconds_sum{prefill}"]
    spent += moved["attention_kernel_seconds_sum{decode}"]
    assert spent == pytest.approx(moved["op_seconds_total{attention}"])
    assert moved["kv_cache_blocks{cached}"] == -moved["kv_cache_blocks{free}"] == 1
    assert moved["kv_block_lifetime_seconds_count"] == 1  # the block that was not full
    assert not any("preemptions" in name or "refused" in name for name in moved)


def test_hits_and_misses_are_the_queries(watch):
    watched = watch()
    text = list(range(5, 55))
    first = watched.generate([text], greedy())
    assert first["prefix_cache_miss_total{empty}"] == first["prefix_cache_queries_total"] == 50
    again = watched.generate([text], greedy())
    assert again["prefix_cache_hits_total"] == 48
    assert again["prefix_cache_miss_total{partial_block}"] == 2
    other = watched.generate([text[:20] + text], greedy())
    assert other["prefix_cache_hits_total"] == 16
    assert other["prefix_cache_miss_total{diverged}"] == 54
    watched.generate([[i % 90 + 5 for i in range(7 * k)] for k in range(1, 20)], greedy(3))
    misses = sum(v for k, v in watched.last.items() if k.startswith("prefix_cache_miss_total"))
    hits, queries = (watched.last[f"prefix_cache_{n}_total"] for n in ("hits", "queries"))
    assert hits + misses == queries


def test_a_switched_off_prefix_cache_says_so(watch):
    for cache in ("paged", "contiguous"):
        moved = watch(cache=cache, prefix_caching=False).generate([[5] * 20], greedy())
        assert moved["prefix_cache_miss_total{disabled}"] == 20


def test_a_running_request_shows_in_the_gauges(watch):
    watched = watch(max_num_seqs=1)
    engine = watched.llm.engine
    requests = [r for i in range(3) for r in engine.add([5 + i] * 20, greedy())]
    engine.step()
    moved = watched.moved()
    assert (moved["requests_running"], moved["requests_waiting"]) == (1, 2)
    assert moved["kv_cache_blocks{used}"] == 2
    assert moved["kv_cache_usage_ratio"] == pytest.approx(2 / engine.runner.cache.stats().n_blocks)
    per_block = 16 * engine.runner.kv_bytes_per_token
    assert moved["kv_cache_used_bytes"] == pytest.approx(2 * per_block)
    for request in requests:
        engine.cancel(request)
    moved = watched.moved()
    assert moved["request_success_total{cancelled}"] == 3
    assert watched.last["requests_running"] == watched.last["requests_waiting"] == 0
    assert watched.last["kv_cache_used_bytes"] == 0


def test_memory_is_the_ledgers(watch):
    watched = watch()
    kinds = watched.llm.stats()["memory"]["by_kind"]
    assert {k: watched.last[f"memory_bytes{{{k}}}"] for k in kinds} == kinds
    assert {k: watched.last[f"memory_predicted_bytes{{{k}}}"] for k in kinds} == kinds
    total = watched.llm.stats()["memory"]["used_bytes"]
    assert watched.last["device_memory_allocated_bytes"] == total == sum(kinds.values())
    assert watched.last["kv_cache_capacity_bytes"] == kinds["kv"]


def test_little_room_means_evictions_and_preemptions(watch):
    watched = watch(kv_cache_memory=watch().llm.engine.runner.kv_bytes_per_token * 128)
    moved = watched.generate([[5 + i] * 20 for i in range(4)], greedy(40))
    assert moved["preemptions_total{no_free_blocks}"] >= 1
    moved = watched.generate([[50 + i] * 100 for i in range(4)], greedy(4))
    assert moved["kv_cache_evictions_total{room}"] >= 1
    assert moved["kv_block_lifetime_seconds_count"] >= moved["kv_cache_evictions_total{room}"]


def test_blocks_that_leave_a_window_are_counted(watch):
    watched = watch(cache="sliding_window", window=16, prefix_caching=False)
    moved = watched.generate([[5] * 20], greedy(60))
    assert moved["kv_cache_evictions_total{window}"] >= 3


def test_stops_errors_and_refusals_are_told_apart(watch, monkeypatch):
    watched = watch(max_num_seqs=1)
    engine = watched.llm.engine
    [free] = watched.llm.generate("hello", greedy())
    stop = SamplingParams(max_tokens=8, temperature=0, stop_token_ids=[free.token_ids[2]])
    watched.moved()
    assert watched.generate("hello", stop)["request_success_total{stop}"] == 1

    with monkeypatch.context() as patch:
        patch.setattr(engine.runner, "run", lambda _chunks: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            watched.llm.generate("hello", greedy())
    assert watched.moved()["request_success_total{error}"] == 1

    thread = EngineThread(engine, max_queue=0, deliver=lambda _: None)
    thread.submit([[5]], greedy())
    with pytest.raises(QueueFullError):
        thread.submit([[5]], greedy())
    thread.close()
    with pytest.raises(EngineStoppedError):
        thread.submit([[5]], greedy())
    moved = watched.moved()
    assert moved["requests_refused_total{queue_full}"] == 1
    assert moved["requests_refused_total{stopping}"] == 1


def test_reading_does_not_wait_for_a_step(watch, monkeypatch):
    watched = watch()
    computing, go_on = threading.Event(), threading.Event()
    run = watched.llm.engine.runner.run

    def held_up(chunks):
        computing.set()
        assert go_on.wait(60)
        return run(chunks)

    monkeypatch.setattr(watched.llm.engine.runner, "run", held_up)
    thread = threading.Thread(target=watched.llm.generate, args=([[5] * 20], greedy(1)))
    thread.start()
    assert computing.wait(60)
    assert watched.moved()["requests_running"] == 1
    go_on.set()
    thread.join()


def test_a_device_may_time_one_step_in_several(tiny_llm):
    """As a GPU does: every metric still moves, and nothing is counted twice."""
    llm = tiny_llm("qwen3", cache="paged")
    watched = Watched(llm, steps_per_timed=4)
    moved = watched.generate([[5] * 20], greedy(8))  # a prefill and seven decodes
    assert moved["attention_kernel_seconds_count{prefill}"] == 1
    assert moved["attention_kernel_seconds_count{decode}"] == 1  # the fifth step
    assert moved["iteration_tokens_count"] == 8
    spent = sum(v for k, v in moved.items() if k.startswith("attention_kernel_seconds_sum"))
    assert spent == pytest.approx(moved["op_seconds_total{attention}"])
    again = watched.generate([[6] * 20], greedy(3))  # the ninth step is timed, the tenth is not
    assert again["attention_kernel_seconds_count{prefill}"] == 1
    assert "attention_kernel_seconds_count{decode}" not in again
