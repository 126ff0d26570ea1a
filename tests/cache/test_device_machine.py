"""Every strategy beside its twin once more, now with kernels that read its block tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cache.device_machine import DeviceModel, device_machine
from cache.machine import run_machine
from longbow_quarrel.config import EngineConfig
from longbow_quarrel.device import make_device

CACHES: dict[str, dict[str, Any]] = {
    "contiguous": {"strategy": "contiguous", "n_blocks": 20},
    "paged": {"strategy": "paged", "n_blocks": 9},
    "sliding": {"strategy": "sliding_window", "n_blocks": 9, "window": 13, "sinks": 3},
}


@pytest.mark.parametrize(
    ("model", "cache"), [*(("llama3", cache) for cache in CACHES), ("gemma3", "paged")]
)
def test_logits_are_those_of_the_text_alone(
    model: str, cache: str, device_name: str, tiny_model_path: Callable[[str], Path]
) -> None:
    compute = make_device(EngineConfig(device=device_name, n_threads=1))
    machine = device_machine(DeviceModel(compute, tiny_model_path(model)), **CACHES[cache])
    try:
        run_machine(machine, n_examples=4, n_steps=30)
    finally:
        machine.model = None  # hypothesis keeps the class
