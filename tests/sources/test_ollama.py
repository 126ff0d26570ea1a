"""Reading an Ollama store that the test lays out."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longbow_quarrel.errors import ModelFormatError, ModelNotFoundError, UsageError
from longbow_quarrel.sources import ollama

CONTENT = b"GGUF and what follows"


def put(
    store: Path, name: str, content: bytes = CONTENT, *, layers: list[object] | None = None
) -> Path:
    """Add HOST/NAMESPACE/NAME/TAG to the store as Ollama does; return the blob."""
    digest = hashlib.sha256(content).hexdigest()
    blob = store / "blobs" / f"sha256-{digest}"
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    template = {
        "mediaType": "application/vnd.ollama.image.template",
        "digest": "sha256:" + "0" * 64,
    }
    model = {"mediaType": ollama.MODEL_LAYER, "digest": f"sha256:{digest}", "size": len(content)}
    manifest = store / "manifests" / name
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": layers or [template, model]}))
    return blob


@pytest.fixture
def store(tmp_path: Path) -> Path:
    store = tmp_path / "models"
    put(store, "registry.ollama.ai/library/smollm2/latest", b"GGUF latest")
    put(store, "registry.ollama.ai/library/smollm2/135m", b"GGUF 135m")
    put(store, "registry.ollama.ai/somebody/tuned/q4", b"GGUF tuned")
    put(store, "hf.co/owner/repo/Q8_0", b"GGUF from elsewhere")
    return store


@pytest.mark.parametrize(
    ("spec", "content"),
    [
        ("smollm2", b"GGUF latest"),
        ("smollm2:latest", b"GGUF latest"),
        ("smollm2:135m", b"GGUF 135m"),
        ("library/smollm2:135m", b"GGUF 135m"),
        ("somebody/tuned:q4", b"GGUF tuned"),
        ("hf.co/owner/repo:Q8_0", b"GGUF from elsewhere"),
    ],
)
def test_the_blob_of_a_name_is_found(store: Path, spec: str, content: bytes):
    assert ollama.resolve(spec, store=store).read_bytes() == content


def test_the_usual_places_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(ollama, "DEFAULT_STORES", ollama.DEFAULT_STORES[:1])
    with pytest.raises(ModelNotFoundError, match=r"in .*/\.ollama/models.*OLLAMA_MODELS"):
        ollama.resolve("tiny")
    blob = put(tmp_path / ".ollama" / "models", "registry.ollama.ai/library/tiny/latest")
    assert ollama.resolve("tiny") == blob


def test_what_is_missing_is_said_with_what_is_there(store: Path):
    with pytest.raises(ModelNotFoundError, match=r"smollm2:1b is not .* tags there, 135m, latest"):
        ollama.resolve("smollm2:1b", store=store)
    with pytest.raises(ModelNotFoundError) as caught:
        ollama.resolve("nothing", store=store)
    listed = "hf.co/owner/repo:Q8_0, smollm2:135m, smollm2:latest, somebody/tuned:q4"
    assert listed in str(caught.value)
    assert "ollama pull nothing:latest" in str(caught.value)


def test_an_empty_store_says_so(tmp_path: Path):
    (tmp_path / "manifests").mkdir()
    with pytest.raises(ModelNotFoundError, match="which is empty: run `ollama pull x:latest`"):
        ollama.resolve("x", store=tmp_path)


def test_a_missing_or_cut_blob(store: Path):
    blob = ollama.resolve("smollm2", store=store)
    blob.write_bytes(b"GGUF")
    with pytest.raises(ModelFormatError, match="has 4 bytes, its manifest says 11"):
        ollama.resolve("smollm2", store=store)
    blob.unlink()
    with pytest.raises(ModelNotFoundError, match="is missing: run `ollama pull smollm2:latest`"):
        ollama.resolve("smollm2", store=store)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([{"mediaType": "application/vnd.ollama.image.license"}], "no GGUF layer"),
        ([{"mediaType": ollama.MODEL_LAYER, "digest": "sha256:../../etc"}], "expected a digest"),
        ([{"mediaType": ollama.MODEL_LAYER, "digest": "sha256:" + "A" * 64}], "expected a digest"),
        ([{"mediaType": ollama.MODEL_LAYER}], "expected a digest"),
        (["layer"], "no list of objects"),
    ],
)
def test_a_lying_manifest_is_refused(store: Path, layers: list[object], words: str):
    put(store, "registry.ollama.ai/library/bad/latest", layers=layers)
    with pytest.raises(ModelFormatError, match=words):
        ollama.resolve("bad", store=store)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"layers": 3}', "[" * 100_000, "\ud800"])
def test_a_damaged_manifest_is_refused(store: Path, text: str):
    manifest = store / "manifests/registry.ollama.ai/library/smollm2/latest"
    manifest.write_text(text, errors="surrogatepass")
    with pytest.raises(ModelFormatError, match="pull the model again"):
        ollama.resolve("smollm2", store=store)


@pytest.mark.parametrize(
    "spec",
    [
        "",
        ":",
        "a:",
        ":b",
        "../a",
        "a:../b",
        "/etc/passwd",
        "a/b/c/d",
        "a:b:c",
        "a:b/c",
        "a\\b",
        "~/a",
    ],
)
def test_malformed_names_are_refused(store: Path, spec: str):
    with pytest.raises(UsageError, match="write ollama:NAME:TAG"):
        ollama.resolve(spec, store=store)


@given(st.text(alphabet="ab.:/\\~\0 ", max_size=12))
def test_no_name_leads_out_of_the_store(spec: str):
    try:
        name = ollama._parse(spec)
    except UsageError:
        return
    manifest = name.manifest(Path("/store"))
    assert len(manifest.parts) == 7
    assert ".." not in manifest.parts
