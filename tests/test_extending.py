"""docs/extending.md: its examples run as they stand there, and do what the page says."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from longbow_quarrel import LLM, SamplingParams, models
from longbow_quarrel import cache as cache_module

Load = Callable[..., LLM]
PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
GREEDY = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
PROMPTS = [[4, 5, 6], list(range(4, 60)), [9]]


def examples() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What the examples define; what they register is forgotten after the test."""
    monkeypatch.setattr(cache_module, "_strategies", dict(cache_module._strategies))
    monkeypatch.setattr(cache_module, "_policies", dict(cache_module._policies))
    defined: dict[str, Any] = {"__name__": "extending"}
    for example in examples():
        exec(compile(example, str(PAGE), "exec"), defined)
    yield defined
    models.ARCHITECTURES.pop("llama_of_the_docs")


def test_there_is_one_of_each_and_they_are_short() -> None:
    assert len(examples()) == 3
    assert all(len(example.strip().splitlines()) <= 30 for example in examples())


@pytest.mark.usefixtures("names")
def test_the_policy_keeps_what_is_found_often(tiny_llm: Load) -> None:
    per_token = tiny_llm("qwen3").engine.runner.kv_bytes_per_token
    hits = {}
    for eviction in ("fifo", "longest_unused"):
        llm = tiny_llm(
            "qwen3", cache="paged", eviction=eviction, kv_cache_memory=per_token * 16 * 12
        )
        often = list(range(5, 53))
        for i in range(6):  # found again and again, while others come and go
            llm.generate([often], SamplingParams(max_tokens=1, temperature=0))
            llm.generate([[60 + i] * 100], SamplingParams(max_tokens=1, temperature=0))
        hits[eviction] = llm.engine.runner.cache.stats().n_prefix_hit_tokens
        assert llm.engine.runner.cache.stats().n_evicted_blocks > 0
        llm.engine.runner.cache.check_invariants()
    assert hits["longest_unused"] > hits["fifo"]


@pytest.mark.usefixtures("names")
def test_the_strategy_computes_what_the_others_do(tiny_llm: Load) -> None:
    texts = {
        name: [o.token_ids for o in tiny_llm("gemma3", cache=name).generate(PROMPTS, GREEDY)]
        for name in ("contiguous", "round_robin")
    }
    assert texts["round_robin"] == texts["contiguous"]


def test_the_model_is_llama(
    tiny_llm: Load, names: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = list(range(5, 45))
    expected = tiny_llm("llama3").logits(ids)
    assert models.ARCHITECTURES["llama_of_the_docs"] is names["record"]
    monkeypatch.setitem(models.ARCHITECTURES, "llama", names["record"])
    assert np.array_equal(tiny_llm("llama3").logits(ids), expected)
