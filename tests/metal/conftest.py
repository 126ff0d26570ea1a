"""The Metal device: the GPU of a Mac, elsewhere the software Metal of the rig."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from longbow_quarrel import LLM, EngineConfig, _core
from metal_rig.device.build import NAME
from metal_rig.framework.control import SoftwareMetal, software_metal


@pytest.fixture
def rig(metal: Any) -> Iterator[SoftwareMetal]:
    """Faults and observations of the software Metal; a broken rule fails the test."""
    if metal.__module__ != NAME:
        pytest.skip("a real GPU cannot be told to fail.")
    with software_metal() as control:
        yield control


@pytest.fixture
def metal_llm(metal: Any, tiny_model_path: Callable[[str], Path]) -> Callable[..., LLM]:
    """Load a tiny model on the device: ``metal_llm("llama3", cache="paged", …)``."""

    assert _core.MetalDevice is metal

    def load(name: str, **config: Any) -> LLM:
        return LLM(tiny_model_path(name), config=EngineConfig(device="metal", **config))

    return load
