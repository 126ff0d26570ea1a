"""The public face: which source answers to which MODEL string, and the catalogue."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import longbow_quarrel
from longbow_quarrel import sources
from longbow_quarrel.errors import DownloadError, ModelNotFoundError, UsageError
from longbow_quarrel.sources.pypi import WheelMember
from sources.standin import IndexStandIn, make_wheel, pseudo_random

CONTENT = pseudo_random(50_000, "catalogue")


@pytest.fixture
def small_catalog(index: IndexStandIn, monkeypatch: pytest.MonkeyPatch) -> IndexStandIn:
    """The catalogue's entries, with small contents served by the stand-in."""
    index.add("small", "small-1.0-py3-none-any.whl", make_wheel({"small/m.gguf": CONTENT}))
    digest = hashlib.sha256(CONTENT).hexdigest()
    parts = (WheelMember("small", "1.0", "m.gguf", len(CONTENT)),)
    entries = {
        entry.name: replace(entry, parts=parts, sha256=digest, size_bytes=len(CONTENT))
        for entry in sources.catalog()
    }
    monkeypatch.setattr(sources, "find", entries.__getitem__)
    return index


def test_the_catalogue_is_complete():
    entries = sources.catalog()
    assert [entry.name for entry in entries] == ["smollm2-135m", "gemma3-270m"]
    assert entries[0].name == sources.DEFAULT_MODEL
    for entry in entries:
        assert re.fullmatch("[0-9a-f]{64}", entry.sha256)
        assert entry.size_bytes == entry.package.size_bytes
        assert entry.filename.endswith(".gguf")
        assert all(
            (entry.description, entry.architecture, entry.quantisation, entry.licence, entry.source)
        )
    assert "Gemma Terms of Use" in entries[1].notice
    assert entries[0].licence == "Apache-2.0"


def test_a_catalogue_name_is_fetched_once(small_catalog: IndexStandIn, tmp_path: Path):
    path = sources.resolve("smollm2-135m", cache_dir=tmp_path)
    assert path == tmp_path / "catalog/smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf"
    assert path.read_bytes() == CONTENT
    small_catalog.seen.clear()
    assert sources.resolve("smollm2-135m", cache_dir=tmp_path, offline=True) == path
    assert small_catalog.seen == []


@pytest.mark.usefixtures("small_catalog")
def test_the_licence_is_shown_when_the_model_is_fetched(tmp_path: Path):
    shown: list[str] = []
    for _ in range(2):
        sources.resolve("gemma3-270m", cache_dir=tmp_path, notify=shown.append)
    sources.resolve("smollm2-135m", cache_dir=tmp_path, notify=shown.append)
    assert len(shown) == 1
    assert "ai.google.dev/gemma/terms" in shown[0]


def test_offline_needs_the_cache(tmp_path: Path):
    with pytest.raises(DownloadError, match="offline mode"):
        sources.resolve("smollm2-135m", cache_dir=tmp_path, offline=True)


def test_a_file_named_like_the_catalogue_does_not_hide_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "smollm2-135m").write_bytes(b"stray")
    (tmp_path / "model").write_bytes(b"GGUF")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DownloadError):
        sources.resolve("smollm2-135m", cache_dir=tmp_path / "cache", offline=True)
    assert sources.resolve("./smollm2-135m") == tmp_path / "smollm2-135m"
    assert sources.resolve("model") == tmp_path / "model"


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("", "the model's name is empty"),
        ("smollm2", "did you mean smollm2-135m"),
        ("Gemma3-270M", "did you mean gemma3-270m"),
        ("zzzz", "the catalogue has smollm2-135m, gemma3-270m"),
        ("s3:bucket", "give a path to a .gguf file, a catalogue name, hf:"),
        ("./no.gguf", "there is no file"),
        ("ollama:none", "Ollama"),
    ],
)
def test_an_unknown_model_is_met_with_help(tmp_path: Path, model: str, words: str):
    with pytest.raises(ModelNotFoundError, match=re.escape(words)):
        sources.resolve(model, cache_dir=tmp_path, ollama_store=tmp_path)


@pytest.mark.parametrize(
    "model", ["hf:", "hf:../x/y", "ollama:", "ollama:../x", "pypi:", "pypi:a/../b"]
)
def test_malformed_specs_are_usage_errors(tmp_path: Path, model: str):
    (tmp_path / "manifests").mkdir()
    with pytest.raises(UsageError):
        sources.resolve(model, cache_dir=tmp_path, ollama_store=tmp_path)


def test_messages_are_one_sentence_line(tmp_path: Path):
    for model in ("", "zzzz", "./no.gguf", str(tmp_path), "pypi:x", "hf:x", "smollm2-135m"):
        with pytest.raises(longbow_quarrel.errors.QuarrelError) as caught:
            sources.resolve(model, cache_dir=tmp_path, offline=True)
        assert "\n" not in str(caught.value)


def test_the_default_cache_is_the_users():
    assert sources.default_cache_dir().is_absolute()
    assert "longbow-quarrel" in str(sources.default_cache_dir())


def test_importing_the_sources_stays_quick():
    code = (
        "import sys, longbow_quarrel.sources; "
        "heavy = {'huggingface_hub', 'requests', 'rich', 'packaging'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    root = str(Path(sources.__file__).parents[2])
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.slow
def test_the_default_model_really_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Fetches about 93 MB from the package index that this machine's pip is set up to use."""
    monkeypatch.undo()
    path = sources.resolve("smollm2-135m", cache_dir=tmp_path)
    (entry,) = (entry for entry in sources.catalog() if entry.name == "smollm2-135m")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == entry.sha256
    assert [item.name for item in path.parent.glob("*.partial")] == []
