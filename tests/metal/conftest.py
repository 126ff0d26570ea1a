"""The Metal device: the GPU of a Mac, elsewhere the software Metal of the rig."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from longbow_quarrel import LLM, EngineConfig, _core, device
from metal_rig import toolchain
from metal_rig.device.build import NAME, load_device
from metal_rig.framework.control import SoftwareMetal, software_metal


@pytest.fixture(scope="session")
def metal_class() -> Any:
    """What a Mac's _core.MetalDevice is. Building it the first time takes a minute."""
    if sys.platform == "darwin":
        if not _core.MetalDevice.is_available():
            pytest.skip("this Mac has no GPU for Metal: run the tests on one with Apple silicon.")
        return _core.MetalDevice
    reason = toolchain.why_not(toolchain.FRAMEWORK_PACKAGES)
    if reason is None:
        return load_device().MetalDevice
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def metal(metal_class: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """``device="metal"`` computes on ``metal_class``, and keeps its pipelines in tmp_path."""
    monkeypatch.setattr(_core, "MetalDevice", metal_class)
    monkeypatch.setattr(device, "metal_is_available", metal_class.is_available)
    monkeypatch.setattr(device, "default_cache_dir", lambda: tmp_path)
    return metal_class


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
