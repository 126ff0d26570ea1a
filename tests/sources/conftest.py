"""Fixtures of the model sources: stand-in servers, and no way out to the real network."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from longbow_quarrel.errors import DownloadError
from longbow_quarrel.sources import package_index, pip_tool
from longbow_quarrel.sources.download import HttpSettings
from sources.standin import HubStandIn, IndexStandIn, serving

QUICK = HttpSettings(
    connect_timeout_seconds=2.0, read_timeout_seconds=0.5, attempts=3, backoff_seconds=0.01
)


@pytest.fixture(autouse=True)
def _no_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*os.environ]:
        if name.startswith(("PIP_", "HF_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[IndexStandIn]:
    """A package index; short timeouts; pip's own route closed."""
    standin = IndexStandIn()

    def configured(index_url: str | None = None) -> package_index.IndexSettings:
        return package_index.IndexSettings((index_url or standin.index_url,), QUICK)

    def no_pip(*_: object, **__: object) -> Path:
        raise DownloadError("pip is left out of this test")

    monkeypatch.setattr(package_index, "configured", configured)
    monkeypatch.setattr(pip_tool, "download_wheel", no_pip)
    with serving(standin):
        yield standin


@pytest.fixture
def hub() -> Iterator[HubStandIn]:
    standin = HubStandIn()
    with serving(standin):
        yield standin
