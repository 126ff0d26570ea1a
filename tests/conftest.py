"""Models that tests share.

Tiny models with random weights lie in ``tests/data/models``. Real models come from the catalogue:
from the folder that ``QUARREL_TEST_MODELS`` names, from the user's cache, or from the network;
without all three a test skips and says so.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from longbow_quarrel import LLM, EngineConfig, _core, device, sources
from longbow_quarrel.errors import DownloadError

DATA = Path(__file__).parent / "data"


def pytest_configure() -> None:
    """Tests are about the CPU, also on a Mac, unless they ask for Metal (tests/metal)."""
    device.metal_is_available = lambda: False


@pytest.fixture(autouse=True)
def no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the person running the tests has configured must not change them."""
    for name in list(os.environ):
        if name.startswith("QUARREL_") and name != "QUARREL_TEST_MODELS":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def tiny_model_path() -> Callable[[str], Path]:
    return lambda name: DATA / "models" / f"{name}.gguf"


def _real_model(name: str) -> Path:
    entry = next(entry for entry in sources.catalog() if entry.name == name)
    if folder := os.environ.get("QUARREL_TEST_MODELS"):
        path = Path(folder) / entry.path_in(Path()).name
        if path.exists():
            return path
    try:
        return sources.resolve(name)
    except DownloadError as e:
        pytest.skip(f"{name} cannot be fetched: {e}")


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    return _real_model("smollm2-135m")


@pytest.fixture(scope="session")
def gemma3_path() -> Path:
    return _real_model("gemma3-270m")


@pytest.fixture(scope="session")
def smollm2(smollm2_path: Path) -> LLM:
    return LLM(smollm2_path, config=EngineConfig(n_threads=2))


@pytest.fixture(scope="session")
def gemma3(gemma3_path: Path) -> LLM:
    return LLM(gemma3_path, config=EngineConfig(n_threads=2))


@pytest.fixture(scope="session")
def metal_class() -> Any:
    """What a Mac's _core.MetalDevice is. Building it the first time takes a minute."""
    if sys.platform == "darwin":
        if not _core.MetalDevice.is_available():
            pytest.skip("this Mac has no GPU for Metal: run the tests on one with Apple silicon.")
        return _core.MetalDevice
    from metal_rig import toolchain
    from metal_rig.device.build import load_device

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


@pytest.fixture(params=["cpu", "metal"])
def device_name(request: pytest.FixtureRequest) -> str:
    """For tests that hold on every device; some choose by indirect parameters."""
    if request.param == "metal":
        request.getfixturevalue("metal")
    return str(request.param)


@pytest.fixture
def tiny_llm(tiny_model_path: Callable[[str], Path]) -> Iterator[Callable[..., LLM]]:
    """Load a tiny model: ``tiny_llm("llama3", cache="contiguous", …)``; two threads by default."""

    def load(name: str, **config: object) -> LLM:
        return LLM(tiny_model_path(name), config=EngineConfig(**({"n_threads": 2} | config)))

    return load
