"""``plan``: the figures are the engine's, under the options of the other commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.running import Run
from longbow_quarrel import LLM, EngineConfig

OPTIONS = {
    "--cache": ("cache", "paged"),
    "--block-size": ("block_size", 32),
    "-c": ("context_length", 200),
    "-ctk": ("kv_type_k", "f32"),
    "-ctv": ("kv_type_v", "f16"),
    "--kv-cache-memory": ("kv_cache_memory", 300_000),
    "--max-num-seqs": ("max_num_seqs", 3),
    "-t": ("n_threads", 2),
}


def test_figures_are_what_loading_charges(cli: Run, gemma3: Path) -> None:
    flags = [word for flag, (_, value) in OPTIONS.items() for word in (flag, str(value))]
    found = json.loads(cli("plan", gemma3, *flags, "--json").out)
    llm = LLM(gemma3, config=EngineConfig(**dict(OPTIONS.values())))
    memory = llm.stats()["memory"]
    assert found["by_kind"] == memory["by_kind"]
    assert found["total_bytes"] == memory["used_bytes"] <= found["cap_bytes"]
    assert found["capacity_tokens"] == llm.stats()["cache"]["capacity_tokens"]
    assert found["fits"]
    assert {o["strategy"] for o in found["outlooks"]} >= {"contiguous", "paged", "sliding_window"}


def test_a_table_for_people(cli: Run, gemma3: Path) -> None:
    result = cli("plan", "-m", gemma3, "-c", 100, "-t", 1)
    assert result.err == ""
    for word in ("weights", "scratch", "prefix cache", "total", "to spare", "longest", "paged"):
        assert word in result.out


def test_too_little_memory_is_shown_and_refused_only_when_loading(cli: Run, gemma3: Path) -> None:
    result = cli("plan", gemma3, "--memory-limit", 100_000)
    assert "too little" in result.out
    assert not json.loads(cli("plan", gemma3, "--memory-limit", 100_000, "--json").out)["fits"]


@pytest.mark.parametrize("limit", ["1", "17KiB"])
def test_a_cache_of_no_block_is_refused(cli: Run, gemma3: Path, limit: str) -> None:
    result = cli("plan", gemma3, "--kv-cache-memory", limit, "--block-size", 256)
    assert result.code == 2
    assert "one block takes" in result.err
