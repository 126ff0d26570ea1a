"""Saved K and V give the same bits: in this process and in another one, whatever the strategy."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from longbow_quarrel import LLM, EngineConfig, SamplingParams
from longbow_quarrel.errors import SnapshotError, UsageError

GREEDY = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True, logprobs=3)
MODELS = ["llama3", "gemma3"]
CACHES = {
    "contiguous": {"cache": "contiguous"},
    "paged": {"cache": "paged"},
    "paged-32": {"cache": "paged", "block_size": 32},
    "sliding": {"cache": "sliding_window", "window": 48, "sinks": 4},
    "sliding-wide": {"cache": "sliding_window"},
}


def _load(path: Path, **config: object) -> LLM:
    return LLM(path, config=EngineConfig(**({"n_threads": 2, "context_length": 512} | config)))


def _ids(n: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(5, 200, n).tolist()


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _answer(out) -> tuple[list[int], list[object]]:
    return out.token_ids, out.logprobs


def _cold(path: Path, prompt: list[int], config: dict[str, object]) -> tuple:
    [out] = _load(path, **config, prefix_caching=False).generate([prompt], GREEDY)
    assert out.cached_tokens == 0
    return _answer(out)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("cache", CACHES)
def test_a_saved_sequence_goes_on_with_the_same_bits(model, cache, tiny_model_path, tmp_path):
    """Only the last token is computed again, also where the text ends inside a block."""
    path, config = tiny_model_path(model), CACHES[cache]
    for n in (1, 2, 37, 64, 101):
        prompt = _ids(n + 1, seed=n)
        _load(path, **config).save_sequence(tmp_path / "one.kv", prompt[:n])
        llm = _load(path, **config)
        saved = llm.load_sequence(tmp_path / "one.kv")
        assert saved.token_ids == prompt[:n]
        assert llm.stats()["memory"]["by_kind"]["snapshots"] == saved.n_bytes > 0
        for _ in range(2):
            [out] = llm.generate([prompt], GREEDY, resume=saved)
            assert (out.cached_tokens, out.miss_reason) == (n, "none")
            assert _answer(out) == _cold(path, prompt, config)
        llm.engine.runner.cache.check_invariants()
        del saved
        assert llm.stats()["memory"]["by_kind"]["snapshots"] == 0


@pytest.mark.parametrize("cache", ["contiguous", "paged", "sliding"])
def test_a_prompt_that_leaves_the_saved_text_uses_the_common_part(cache, tiny_model_path, tmp_path):
    path, config = tiny_model_path("gemma3"), CACHES[cache]
    text = _ids(80)
    _load(path, **config).save_sequence(tmp_path / "one.kv", text)
    llm = _load(path, **config)
    saved = llm.load_sequence(tmp_path / "one.kv")
    for prompt, reason in (
        (text[:75] + _ids(30, seed=1), "diverged"),
        (text + _ids(30, seed=2), "shorter"),
        (text[:30], "none"),
        (_ids(30, seed=3), ""),
    ):
        [out] = llm.generate([prompt], GREEDY, resume=saved)
        assert _answer(out) == _cold(path, prompt, config)
        if cache == "contiguous" and reason:
            assert out.miss_reason == reason
            assert out.cached_tokens == {"diverged": 75, "shorter": 80, "none": 29}[reason]
    llm.engine.runner.cache.check_invariants()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("cache", CACHES)
def test_a_prefix_cache_comes_back(model, cache, tiny_model_path, tmp_path):
    path, config = tiny_model_path(model), CACHES[cache]
    first = _load(path, **config)
    prompts = [_ids(40, seed=1) + _ids(20 + i, seed=i) for i in range(2, 6)]
    for prompt in prompts:
        first.generate([prompt], GREEDY)
    saved = first.save_prefix_cache(tmp_path / "all.kv")
    assert saved.n_bytes == (tmp_path / "all.kv").stat().st_size
    second = _load(path, **config)
    taken = second.load_prefix_cache(tmp_path / "all.kv")
    assert (taken.n_blocks, taken.n_bytes) == (saved.n_blocks, saved.n_bytes)
    assert taken.n_tokens > 0
    second.engine.runner.cache.check_invariants()
    assert second.stats()["cache"]["n_used_blocks"] == 0
    assert second.load_prefix_cache(tmp_path / "all.kv").n_blocks == 0  # it is all there
    for prompt in prompts:
        [warm], [again] = first.generate([prompt], GREEDY), second.generate([prompt], GREEDY)
        assert again.cached_tokens == warm.cached_tokens > 0
        assert _answer(again) == _answer(warm) == _cold(path, prompt, config)
    second.engine.runner.cache.check_invariants()


def test_a_pool_too_small_takes_what_was_used_last(tiny_model_path, tmp_path):
    path = tiny_model_path("llama3")
    roomy = _load(path, cache="paged")
    prompts = [_ids(65, seed=i) for i in range(6)]
    for prompt in prompts:
        roomy.generate([prompt], GREEDY)
    roomy.save_prefix_cache(tmp_path / "all.kv")
    block = roomy.engine.runner.kv_bytes_per_token * 16
    tight = _load(path, cache="paged", kv_cache_memory=block * 9, context_length=128)
    assert tight.load_prefix_cache(tmp_path / "all.kv").n_blocks == 9
    tight.engine.runner.cache.check_invariants()
    one = SamplingParams(max_tokens=1)
    cached = [tight.generate([prompts[i][:33]], one)[0].cached_tokens for i in (5, 4, 0, 1)]
    assert cached == [32, 32, 0, 0]


OTHER_WAYS = [
    ("contiguous", "paged", True),
    ("paged", "contiguous", True),
    ("sliding-wide", "paged", True),
    ("contiguous", "sliding-wide", True),
    ("sliding", "paged", False),
    ("contiguous", "sliding", False),
]


@pytest.mark.parametrize(("source", "target", "agree"), OTHER_WAYS)
def test_another_strategy_takes_the_file_where_it_masks_alike(
    source, target, agree, tiny_model_path, tmp_path
):
    path = tiny_model_path("llama3")
    prompt = _ids(70)
    first = _load(path, **CACHES[source])
    first.generate([prompt], GREEDY)
    first.save_prefix_cache(tmp_path / "all.kv")
    second = _load(path, **CACHES[target])
    if not agree:
        with pytest.raises(SnapshotError, match="attention mask"):
            second.load_prefix_cache(tmp_path / "all.kv")
        assert second.stats()["cache"]["n_cached_blocks"] == 0
        return
    assert second.load_prefix_cache(tmp_path / "all.kv").n_tokens > 0
    [out] = second.generate([prompt], GREEDY)
    assert out.cached_tokens >= 64
    assert _answer(out) == _cold(path, prompt, {})


def test_contiguous_has_no_use_for_texts_that_lost_their_beginning(tiny_model_path, tmp_path):
    """gemma's local layers let go of blocks; contiguous could not tell which were there."""
    path = tiny_model_path("gemma3")
    first = _load(path, cache="paged", prefix_caching=False)
    first.save_sequence(tmp_path / "one.kv", _ids(120))
    second = _load(path)
    saved = second.load_sequence(tmp_path / "one.kv")
    with pytest.raises(UsageError, match="restore it into the strategy that saved it"):
        second.generate([_ids(120)], GREEDY, resume=saved)
    assert second.stats()["cache"]["n_used_blocks"] == 0


@pytest.mark.parametrize("n_back", [1, 5, 30, 100])
def test_a_saved_text_can_be_left_behind_its_windows(n_back, tiny_model_path, tmp_path):
    """What the local layers let go of was still cached, so it was saved too."""
    path = tiny_model_path("gemma3")
    text = _ids(150)
    _load(path, cache="paged").save_sequence(tmp_path / "one.kv", text)
    llm = _load(path, cache="paged")
    prompt = text[: 150 - n_back]
    [out] = llm.generate([prompt], GREEDY, resume=llm.load_sequence(tmp_path / "one.kv"))
    assert out.cached_tokens == len(prompt) - 1
    assert _answer(out) == _cold(path, prompt, {})


def test_a_saved_text_belongs_to_its_model(tiny_model_path, tmp_path):
    llm, other = (_load(tiny_model_path("llama3"), cache="paged") for _ in range(2))
    llm.save_sequence(tmp_path / "one.kv", _ids(20))
    with pytest.raises(UsageError, match="load_sequence"):
        other.generate([_ids(20)], GREEDY, resume=llm.load_sequence(tmp_path / "one.kv"))


SCRIPT = """
import json, sys
from longbow_quarrel import LLM, EngineConfig, SamplingParams
path, file, kind, prompt, config = json.loads(sys.argv[1])
llm = LLM(path, config=EngineConfig(n_threads=2, **config))
params = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True, logprobs=3)
if kind == "save":
    out = llm.generate([prompt], params)[0]
    llm.save_prefix_cache(file + ".all")
    llm.save_sequence(file + ".one", prompt[:-1])
elif kind == "all":
    llm.load_prefix_cache(file + ".all")
    out = llm.generate([prompt], params)[0]
else:
    out = llm.generate([prompt], params, resume=llm.load_sequence(file + ".one"))[0]
top = [[t.token_id, t.logprob.hex(), [(i, x.hex()) for i, x in t.top]] for t in out.logprobs]
print(json.dumps([out.cached_tokens, out.token_ids, top]))
"""


def run_elsewhere(path: Path, file: Path, kind: str, prompt: list[int], config: dict) -> list:
    arguments = json.dumps([str(path), str(file), kind, prompt, config])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, arguments], check=True, capture_output=True, timeout=250
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("cache", ["contiguous", "paged"])
def test_another_process_goes_on_with_the_same_bits(cache, tiny_model_path, tmp_path):
    arguments = tiny_model_path("gemma3"), tmp_path / "saved"
    config = {"cache": cache, "context_length": 512}
    prompt = _ids(101)
    n_cold, *want = run_elsewhere(*arguments, "save", prompt, config)
    n_all, *from_all = run_elsewhere(*arguments, "all", prompt, config)
    n_one, *from_one = run_elsewhere(*arguments, "one", prompt, config)
    assert from_all == from_one == want
    assert (n_cold, n_one) == (0, 100)  # nothing is computed again but the last token
    assert n_all == (100 if cache == "contiguous" else 96)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["smollm2_path", "gemma3_path"])
@pytest.mark.parametrize("cache", ["contiguous", "paged"])
def test_real_models_go_on_with_the_same_bits(model, cache, request, tmp_path):
    """Beyond gemma's local window of 512."""
    arguments = request.getfixturevalue(model), tmp_path / "saved"
    prompt = _ids(700)
    config = {"cache": cache, "context_length": 1024}
    n_cold, *want = run_elsewhere(*arguments, "save", prompt, config)
    n_one, *from_one = run_elsewhere(*arguments, "one", prompt, config)
    n_all, *from_all = run_elsewhere(*arguments, "all", prompt, config)
    assert from_one == from_all == want
    assert (n_cold, n_one) == (0, 699)
    assert n_all >= 688


def test_the_file_of_the_configuration_is_read_at_the_start_and_written_at_the_end(
    tiny_model_path, tmp_path
):
    config = {"cache": "paged", "prefix_cache_file": tmp_path / "cache.kv"}
    prompt = _ids(50)
    with _load(tiny_model_path("llama3"), **config) as llm:
        [first] = llm.generate([prompt], GREEDY)
        assert not (tmp_path / "cache.kv").exists()
    with _load(tiny_model_path("llama3"), **config) as llm:
        [second] = llm.generate([prompt], GREEDY)
    assert (first.cached_tokens, second.cached_tokens) == (0, 48)
    assert _answer(second) == _answer(first)
    assert _files(tmp_path) == ["cache.kv"]


def test_without_prefix_caching_there_is_nothing_to_save(tiny_model_path, tmp_path):
    llm = _load(tiny_model_path("llama3"), cache="paged", prefix_caching=False)
    with pytest.raises(UsageError, match="turn prefix_caching on"):
        llm.save_prefix_cache(tmp_path / "all.kv")
    llm.save_sequence(tmp_path / "one.kv", _ids(37))  # one text can be saved all the same
    [out] = llm.generate([_ids(37)], GREEDY, resume=llm.load_sequence(tmp_path / "one.kv"))
    assert out.cached_tokens == 36
    assert _files(tmp_path) == ["one.kv"]
