"""Two arms in one engine: the same texts, one ledger, and nobody lost when an arm goes."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from longbow_quarrel import LLM, EngineConfig, SamplingParams
from longbow_quarrel.errors import OutOfMemoryError
from longbow_quarrel.request import Request
from longbow_quarrel.rollout.engine import RolloutEngine
from longbow_quarrel.telemetry import EngineMetrics
from longbow_quarrel.telemetry.reading import read
from rollout.candidates import FAULTS, Faulty
from server.conftest import TINY

PROMPTS = [[5 + (7 * i + k * k) % 90 for k in range(20 + i % 40)] for i in range(24)]


def params(seed: int, **others: object) -> SamplingParams:
    values = {"max_tokens": 24, "seed": seed, "ignore_eos": True} | others
    return SamplingParams(**values)


def engine_of(llm: LLM) -> RolloutEngine:
    assert isinstance(llm.engine, RolloutEngine)
    return llm.engine


def submit(engine: RolloutEngine, n_prompts: int = len(PROMPTS), **others: object) -> list[Request]:
    requests: list[Request] = []
    for i, prompt in enumerate(PROMPTS[:n_prompts]):
        group = engine.prepare(prompt, params(i, **others))
        engine.submit(group[0], f"request-{i}")
        requests += group
    return requests


def run(engine: RolloutEngine) -> None:
    while engine.has_work:
        engine.step()


@pytest.fixture(scope="module")
def expected() -> list[list[int]]:
    alone = LLM(TINY, config=EngineConfig(n_threads=2))
    return [alone.generate([p], params(i))[0].token_ids for i, p in enumerate(PROMPTS)]


@pytest.fixture
def load(rollout_llm: Callable[..., LLM]):
    llms: list[LLM] = []

    def of(candidate: str, **options: object) -> LLM:
        llms.append(rollout_llm(candidate, **options))
        return llms[-1]

    yield of
    for llm in llms:
        llm.close()


def assert_nothing_is_held(engine: RolloutEngine) -> None:
    for arm in engine.arms:
        stats = arm.runner.cache.stats()
        assert (stats.n_used_blocks, stats.n_sequences) == (0, 0)
        arm.runner.cache.check_invariants()


@pytest.mark.parametrize("candidate", ["paged:0.5", "sliding_window:0.5", "good:0.5"])
def test_arms_give_the_same_texts_and_comparisons_agree(load, expected, candidate):
    llm = load(candidate, shadow=1, rollout_promote_after=0, rollout_max_slowdown=1000)
    engine = engine_of(llm)
    requests = submit(engine)
    run(engine)
    assert [r.output_ids for r in requests] == expected
    seen = llm.engine.rollout.evidence
    assert seen.n_requests == {
        "candidate": seen.n_finished["candidate"],
        "baseline": seen.n_finished["baseline"],
        "shadow": len(PROMPTS),
    }
    assert min(seen.n_finished.values()) >= 6
    assert seen.n_compared + sum(seen.n_skipped.values()) == len(PROMPTS)
    assert seen.n_compared >= 12
    assert (seen.kl_max, sum(seen.n_divergent.values())) == (0, 0)
    assert seen.n_agreeing == seen.n_positions == 24 * seen.n_compared
    assert llm.engine.rollout.phase == "running"
    assert_nothing_is_held(engine)


def test_a_lossy_candidate_is_judged_by_its_divergence(load):
    llm = load("paged:0,ctk=q4_0,ctv=q4_0", shadow=1, rollout_max_kl=1000)
    submit(engine_of(llm), temperature=0)
    run(engine_of(llm))
    seen = llm.engine.rollout.evidence
    assert seen.kl_max > 1e-6
    assert seen.n_divergent["bits"] == seen.n_compared > 0
    assert seen.n_divergent["kl"] == 0
    assert llm.engine.rollout.phase == "running"
    strict = load("paged:0,ctk=q4_0,ctv=q4_0", shadow=1, rollout_max_kl=1e-9, **own_file(llm))
    submit(engine_of(strict), temperature=0)
    run(engine_of(strict))
    assert strict.engine.rollout.phase == "rolled_back"


def own_file(llm: LLM) -> dict[str, object]:
    path = llm.engine.rollout._file.path
    return {"rollout_state": path.with_name("other.json")}


def test_memory_of_both_arms_is_in_one_ledger_and_comes_back(load):
    alone = LLM(TINY, config=EngineConfig(n_threads=2, max_num_seqs=4, context_length=512))
    weights = alone.stats()["memory"]["by_kind"]["weights"]
    llm = load("paged:0.5", kv_cache_memory="1MiB")
    memory = llm.stats()["memory"]
    assert memory["by_kind"]["weights"] == weights  # not loaded twice
    assert memory["by_kind"] == memory["predicted_by_kind"]
    assert 0.9 * 2**20 < memory["by_kind"]["kv"] <= 2**20
    requests = submit(engine_of(llm), 8)
    for _ in range(6):
        llm.engine.step()
    llm.engine.rollout.failed("error", "planted")
    run(engine_of(llm))
    assert all(r.finish_reason == "length" for r in requests)
    memory = llm.stats()["memory"]
    assert memory["by_kind"] == memory["predicted_by_kind"]
    assert memory["by_kind"]["kv"] <= 2**19


def test_arms_that_do_not_fit_together_are_refused(load):
    alone = LLM(TINY, config=EngineConfig(n_threads=2, max_num_seqs=4, context_length=512))
    limit = alone.stats()["memory"]["used_bytes"]
    with pytest.raises(OutOfMemoryError, match=r"both arms .* raise memory_limit"):
        load("paged:0.5", memory_limit=limit, kv_cache_memory="1MiB")
    # Left to itself, it shares out what there is.
    llm = load("paged:0.5", memory_limit=limit + 300_000)
    assert llm.stats()["memory"]["used_bytes"] <= limit + 300_000


def test_a_rollback_in_the_middle_changes_no_text(load, expected):
    llm = load("paged:0.7", shadow=0.5)
    engine = engine_of(llm)
    metrics = EngineMetrics(engine, "tiny")
    requests = submit(engine)
    for _ in range(30):
        engine.step()
    assert engine.candidate is not None
    assert engine.candidate.scheduler.running
    llm.engine.rollout.failed("error", "planted")
    run(engine)
    assert engine.candidate is None
    assert [r.output_ids for r in requests] == expected
    assert_nothing_is_held(engine)
    text = metrics.render().decode()
    assert 'preemptions_total{device="cpu",model="tiny",reason="rolled_back"' in text
    assert read(text)["rollout_phase{rolled_back}"] == 1
    assert read(text)["rollout_events_total{error}"] == 1


def test_a_promotion_gives_every_request_to_the_candidate(load, expected):
    llm = load("paged:0.3", rollout_promote_after=3, rollout_min_steps=1, shadow=1)
    engine = engine_of(llm)
    control = llm.engine.rollout
    control.guard.missing = list  # type: ignore[method-assign]
    requests = submit(engine, 12)
    run(engine)
    assert control.phase == "promoted"
    before = control.evidence.n_requests
    for i in range(5):
        leader = engine.prepare(PROMPTS[i], params(i))[0]
        engine.submit(leader, f"later-{i}")
        requests.append(leader)
    run(engine)
    assert control.evidence.n_requests["candidate"] == before["candidate"] + 5
    assert [r.output_ids for r in requests[:12]] == expected[:12]
    assert [r.output_ids for r in requests[12:]] == expected[:5]


def test_several_texts_of_a_prompt_stay_together(load, expected):
    llm = load("paged:1", shadow=0)
    engine = engine_of(llm)
    requests = submit(engine, 4, n=3)
    for _ in range(4):
        engine.step()
    llm.engine.rollout.failed("error", "planted")
    run(engine)
    assert all(r.finish_reason == "length" for r in requests)
    assert [r.output_ids for r in requests[::3]] == expected[:4]


def test_cancelling_frees_either_arm(load):
    llm = load("paged:0.5", shadow=1)
    engine = engine_of(llm)
    requests = submit(engine, 12, n=2)
    for _ in range(8):
        engine.step()
    for request in requests:
        engine.cancel(request)
    run(engine)
    assert {r.finish_reason for r in requests} <= {"cancelled", "length"}
    assert_nothing_is_held(engine)


@pytest.mark.parametrize("fault", [f for f in FAULTS if f not in ("slow", "contradicts")])
def test_no_request_fails_for_a_fault_of_the_candidate(load, expected, fault):
    llm = load(f"{fault}:0.5", shadow=1, context_length=128, rollout_max_slowdown=1000)
    engine = engine_of(llm)
    Faulty.begun.set()
    requests = []
    for _ in range(4):  # some of them need many blocks to be lost
        requests = submit(engine)
        run(engine)
        assert all((r.error, r.finish_reason) == (None, "length") for r in requests)
        if llm.engine.rollout.phase == "rolled_back":
            break
    else:
        pytest.fail(f"not caught: {llm.engine.rollout.summary()}")
    reasons = {k for k, n in llm.engine.rollout.evidence.n_events.items() if n}
    assert reasons & FAULTS[fault][1]
    after = submit(engine)
    run(engine)
    assert [r.output_ids for r in after] == expected
    assert_nothing_is_held(engine)


def test_a_comparison_gives_way_to_requests(load, expected):
    """The arms have room for little more than one text."""
    llm = load("paged:0.5", shadow=1, kv_cache_memory=2 * 256 * 112, context_length=128)
    engine = engine_of(llm)
    requests = submit(engine, 12)
    run(engine)
    assert [r.output_ids for r in requests] == expected[:12]
    assert llm.engine.rollout.phase == "running"
    assert_nothing_is_held(engine)


def test_comparisons_keep_to_their_share_of_time(load):
    llm = load("paged:0", shadow=1, rollout_shadow_time=0.2)
    engine = engine_of(llm)
    shadows = engine.shadows
    assert shadows is not None
    spent = []
    for share in np.linspace(0.001, 0.05, 50):
        shadows.others_worked(float(share))
        spent.append(shadows._credit_seconds)
    assert max(spent) <= 0.1  # a burst is bounded
    assert spent[0] == pytest.approx(0.001 * 0.25)


def test_comparisons_take_no_more_than_that_from_requests(load):
    llm = load("paged:0", shadow=1, rollout_shadow_time=0.2)
    engine = engine_of(llm)
    shadows = engine.shadows
    assert shadows is not None
    slices = [0.0]
    advance = shadows.advance

    def timed(*, is_idle: bool) -> None:
        start = time.perf_counter()
        advance(is_idle=is_idle)
        slices.append(time.perf_counter() - start)

    shadows.advance = timed  # type: ignore[method-assign]
    submit(engine)
    start = time.perf_counter()
    while engine.scheduler.running or engine.scheduler.waiting:
        engine.step()
    total = time.perf_counter() - start
    assert shadows.has_work  # there was more to compare than time for it
    assert llm.engine.rollout.evidence.n_compared > 0
    assert sum(slices) <= 0.2 * total + max(slices) + 0.1 * 0.2


def test_labels_tell_the_arms_apart(load):
    llm = load("contiguous:0.5,block_size=32", shadow=0)
    metrics = EngineMetrics(llm.engine, "tiny")
    submit(engine_of(llm))
    run(engine_of(llm))
    text = metrics.render().decode()
    counts = [
        float(line.rsplit(" ", 1)[1])
        for line in text.splitlines()
        if line.startswith("quarrel_request_success_total") and "length" in line
    ]
    assert len(counts) == 2
    assert sum(counts) == len(PROMPTS)
    assert 'strategy="contiguous-candidate"' in text
    assert text.count("# TYPE quarrel_kv_cache_blocks ") == 1
