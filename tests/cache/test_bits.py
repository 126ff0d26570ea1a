"""Results do not depend on the strategy: logits as bytes, tiny models, every device."""

from __future__ import annotations

import numpy as np
import pytest

from cache.steps import Steps, logits
from longbow_quarrel import EngineConfig, _core
from longbow_quarrel.cache import make_cache
from longbow_quarrel.device import make_device

IDS = (np.arange(150, dtype=np.int32) * 7 + np.arange(150, dtype=np.int32) ** 2) % 90


def _make(name: str, block_size: int = 16, **options):
    return lambda groups, n_blocks: make_cache(
        name, groups=groups, block_size=block_size, n_blocks=n_blocks, **options
    )


@pytest.fixture
def device(device_name: str) -> _core.Device:
    return make_device(EngineConfig(device=device_name, n_threads=2))


OTHERS = {
    "paged-16": _make("paged"),
    "paged-64": _make("paged", 64),
    "paged-cold": _make("paged", reuse_prefixes=False),
    "paged-32-fifo": _make("paged", 32, eviction="fifo"),
    "sliding": _make("sliding_window", window=1000, sinks=4),
}


@pytest.mark.parametrize("model", ["llama3", "gemma3", "mistral"])
@pytest.mark.parametrize("other", OTHERS)
def test_every_strategy_gives_the_same_bits(
    model: str, other: str, device: _core.Device, tiny_model_path
) -> None:
    """With a fork in the middle of a block, and a second, warm turn."""
    path = tiny_model_path(model)
    want = logits(path, _make("contiguous"), device, IDS, fork_at=71)
    assert logits(path, OTHERS[other], device, IDS, fork_at=71) == want


@pytest.mark.parametrize("model", ["llama3", "gemma3"])
def test_preempted_and_evicted_texts_come_back_the_same(
    model: str, device: _core.Device, tiny_model_path
) -> None:
    """Two texts in a pool for little more than one: each turn evicts some of the other."""
    roomy = Steps(tiny_model_path(model), _make("paged"), device)
    tight = Steps(tiny_model_path(model), _make("paged"), device, n_blocks=11)
    texts = [IDS, IDS[::-1].copy()]
    last = 4 * roomy.vocab_size
    n_cached = []
    for turn in range(4):
        ids = texts[turn % 2]
        results = []
        for steps in (roomy, tight):
            match = steps.open(ids)
            results.append(steps.compute({match.sequence: ids[match.n_tokens :]})[-last:])
            steps.cache.release(match.sequence)
            n_cached.append(match.n_tokens)
        assert results[0] == results[1]
    assert tight.cache.stats().n_evicted_blocks > 0
    assert n_cached[4] == 144  # the roomy one has all whole blocks
    assert n_cached[5] < 144


def test_a_windowed_group_holds_its_window_only(tiny_model_path) -> None:
    steps = Steps(tiny_model_path("gemma3"), _make("paged"), _core.CpuDevice(1))
    windows = [steps.cache.group_spec(g)[0] for g in range(steps.cache.n_groups)]
    assert sorted(windows)[0] == 0
    assert sorted(windows)[1] > 0
    sequence = steps.open(IDS).sequence
    steps.compute({sequence: IDS})
    for window, table in zip(windows, steps.cache.block_tables(sequence), strict=True):
        first = max(len(IDS) + 1 - window, 0) // 16 if window else 0
        assert [block >= 0 for block in table] == [b >= first for b in range(10)]
