"""The public class on tiny models: what comes back, when it ends, what is refused."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from longbow_quarrel import LLM, EngineConfig, SamplingParams
from longbow_quarrel.errors import (
    ContextLengthError,
    ModelFormatError,
    ModelNotFoundError,
    OutOfMemoryError,
    UsageError,
)

GREEDY = SamplingParams(max_tokens=8, temperature=0, ignore_eos=True)


@pytest.fixture
def llm(tiny_llm) -> LLM:
    return tiny_llm("qwen3")


def _used(llm: LLM) -> tuple[int, int]:
    stats = llm.stats()
    return stats["cache"]["n_used_blocks"], stats["cache"]["n_sequences"]


def test_output_describes_itself(llm):
    [out] = llm.generate("hello there", GREEDY)
    assert out.prompt_token_ids == llm.tokenize("hello there")
    assert len(out.token_ids) == 8
    assert out.finish_reason == "length"
    assert out.text == llm.engine.tokenizer.decode(out.token_ids, continuation=True)
    assert out.logprobs is None
    times = out.timings
    assert 0 < times.ttft_seconds <= times.total_seconds
    assert times.queue_seconds + times.prefill_seconds == pytest.approx(times.ttft_seconds)
    assert times.ttft_seconds + times.decode_seconds == pytest.approx(times.total_seconds)


def test_prompts_keep_their_order(llm):
    prompts = ["a", [10, 11, 12], "another prompt, a longer one"]
    together = llm.generate(prompts, GREEDY)
    assert [o.prompt_token_ids for o in together] == [
        llm.tokenize("a"),
        [10, 11, 12],
        llm.tokenize("another prompt, a longer one"),
    ]
    assert [o.token_ids for o in together] == [
        llm.generate([p], GREEDY)[0].token_ids for p in prompts
    ]


def test_same_seed_same_text(llm):
    def text(seed: int) -> list[int]:
        params = SamplingParams(
            max_tokens=24, temperature=1.5, seed=seed, top_k=0, top_p=1, min_p=0
        )
        return llm.generate("some words", params)[0].token_ids

    assert text(7) == text(7)
    assert text(7) != text(8)


def test_n_texts_of_one_prompt_differ(llm):
    params = SamplingParams(max_tokens=16, temperature=1.5, seed=3, n=3, ignore_eos=True)
    outputs = llm.generate(["x y"], params)
    assert len(outputs) == 3
    assert len({tuple(o.token_ids) for o in outputs}) == 3
    assert [o.token_ids for o in llm.generate(["x y"], params)] == [o.token_ids for o in outputs]


def test_end_tokens_and_stop_strings_end_the_text(llm):
    [free] = llm.generate("hello", GREEDY)
    third = free.token_ids[2]
    [out] = llm.generate(
        "hello", SamplingParams(max_tokens=8, temperature=0, stop_token_ids=[third])
    )
    assert out.finish_reason == "stop"
    assert out.token_ids[-1] == third

    stop = free.text[2:4]
    [out] = llm.generate(
        "hello", SamplingParams(max_tokens=8, temperature=0, ignore_eos=True, stop=[stop])
    )
    assert (out.finish_reason, out.text) == ("stop", free.text[: free.text.index(stop)])


def test_logprobs_are_those_of_the_model(llm):
    [out] = llm.generate("hello", SamplingParams(max_tokens=4, temperature=0, logprobs=3))
    rows = llm.logits(out.prompt_token_ids + out.token_ids[:-1])[len(out.prompt_token_ids) - 1 :]
    assert out.logprobs is not None
    for entry, row in zip(out.logprobs, rows.astype(np.float64), strict=True):
        expected = row - row.max() - np.log(np.exp(row - row.max()).sum())
        assert entry.logprob == pytest.approx(expected[entry.token_id], abs=1e-6)
        assert [i for i, _ in entry.top] == np.argsort(-expected, kind="stable")[:3].tolist()


def test_stream_gives_the_same_text_in_pieces(llm):
    stream = llm.stream("hello there", GREEDY)
    pieces = list(stream)
    [out] = llm.generate("hello there", GREEDY)
    assert "".join(pieces) == stream.output.text == out.text
    assert len(pieces) > 1


def test_leaving_a_stream_frees_its_blocks(llm):
    with llm.stream("hello there", GREEDY) as stream:
        pieces = iter(stream)
        next(pieces)
        assert _used(llm)[1] == 1
    assert _used(llm) == (0, 0)
    assert stream.output.finish_reason == "cancelled"
    assert llm.generate("hello there", GREEDY)[0].finish_reason == "length"


def test_second_turn_of_a_chat_reuses_the_first(llm):
    turn = [{"role": "user", "content": "tell me something"}]
    first = llm.chat(turn, GREEDY)
    again = llm.generate([first.prompt_token_ids + first.token_ids + [20, 21]], GREEDY)[0]
    assert first.cached_tokens == 0
    assert again.cached_tokens == len(first.prompt_token_ids) + len(first.token_ids) - 1


def test_more_requests_than_fit_wait_their_turn(tiny_llm):
    llm = tiny_llm("qwen3", max_num_seqs=2, max_num_batched_tokens=16)
    prompts = [[5 + i, 6, 7] * (1 + 4 * i) for i in range(9)]
    outputs = llm.generate(prompts, GREEDY)
    assert [len(o.token_ids) for o in outputs] == [8] * 9
    assert _used(llm) == (0, 0)


def test_prompt_longer_than_the_context_says_what_fits(tiny_llm):
    llm = tiny_llm("qwen3", context_length=32)
    with pytest.raises(ContextLengthError, match="has 32 tokens but at most 31 fit"):
        llm.generate([[5] * 32], GREEDY)
    [out] = llm.generate([[5] * 31], GREEDY)
    assert (len(out.token_ids), out.finish_reason) == (1, "length")


def test_cache_too_small_for_the_prompt_says_what_fits(tiny_llm):
    one_block = tiny_llm("qwen3").engine.runner.kv_bytes_per_token * 16
    llm = tiny_llm("qwen3", kv_cache_memory=one_block * 2)
    with pytest.raises(ContextLengthError, match="at most 31 fit"):
        llm.generate([[5] * 40], GREEDY)
    assert llm.generate([[5] * 20], GREEDY)[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"cache": "pagd"}, "expected one of contiguous, paged"),
        ({"cache": "paged", "eviction": "random"}, "expected one of lru, lfu, fifo"),
        ({"cpu_isa": "mmx"}, "expected an instruction set among auto"),
    ],
)
def test_unknown_choices_are_refused_by_name(tiny_llm, config, message):
    with pytest.raises(UsageError, match=message):
        tiny_llm("qwen3", **config)


def test_memory_limit_is_hard(tiny_model_path):
    with pytest.raises(OutOfMemoryError, match="raise memory_limit"):
        LLM(tiny_model_path("qwen3"), config=EngineConfig(memory_limit=100_000))


def test_ledger_counts_what_is_held(llm):
    kinds = llm.stats()["memory"]["by_kind"]
    tensors = llm.engine.runner.file.tensors
    # Repacked, each matrix is filled up to whole cache lines and tiles.
    n_bytes = sum(t.n_bytes for t in tensors if not t.name.startswith("rope_freqs"))
    assert 0 <= kinds["weights"] - n_bytes <= 1024 * len(tensors)
    cache = llm.stats()["cache"]
    assert kinds["kv"] == cache["capacity_tokens"] * cache["kv_bytes_per_token"]
    assert sum(kinds.values()) == llm.stats()["memory"]["used_bytes"]


@pytest.mark.parametrize(
    ("prompt", "message"),
    [([], "empty"), ([10**6], "Token ids must be"), ([-1], "Token ids must be")],
)
def test_bad_prompts_are_refused(llm, prompt, message):
    with pytest.raises(UsageError, match=message):
        llm.generate([prompt], GREEDY)
    assert _used(llm) == (0, 0)


def test_one_bad_prompt_leaves_nothing_behind(llm):
    with pytest.raises(UsageError):
        llm.generate([[5, 6], []], GREEDY)
    assert llm.stats()["scheduler"] == {"running": 0, "waiting": 0}


def test_device_failure_fails_its_requests_and_the_engine_goes_on(llm, monkeypatch):
    def broken(_chunks):
        raise RuntimeError("the device is gone")

    with monkeypatch.context() as patch:
        patch.setattr(llm.engine.runner, "run", broken)
        with pytest.raises(RuntimeError, match="the device is gone"):
            llm.generate("hello", GREEDY)
    assert _used(llm) == (0, 0)
    assert llm.generate("hello", GREEDY)[0].finish_reason == "length"


def test_many_threads_take_turns(llm):
    expected = llm.generate("hello", GREEDY)[0].token_ids
    results: list[list[int]] = []
    threads = [
        threading.Thread(target=lambda: results.append(llm.generate("hello", GREEDY)[0].token_ids))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * 6


def test_chunk_size_is_the_prefill_chunk(tiny_model_path):
    llm = LLM(tiny_model_path("qwen3"), chunk_size=7)
    assert llm.engine.runner.max_tokens == 7
    assert llm.generate([[5] * 50], GREEDY)[0].finish_reason == "length"


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(ModelNotFoundError):
        LLM(tmp_path / "none.gguf")
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(ModelFormatError, match=r"empty\.gguf"):
        LLM(tmp_path / "empty.gguf")
    (tmp_path / "text.gguf").write_text("no model at all, just text")
    with pytest.raises(ModelFormatError, match=r"text\.gguf"):
        LLM(tmp_path / "text.gguf")


def test_detokenize_inverts_tokenize(llm):
    assert llm.detokenize(llm.tokenize("a word, or two")) == "a word, or two"
