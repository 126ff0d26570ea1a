"""Models in an existing Ollama store, read in place.

Layout: ``manifests/HOST/NAMESPACE/NAME/TAG`` is JSON in the manner of an OCI image manifest, whose
layer of type ``application/vnd.ollama.image.model`` names the GGUF file ``blobs/sha256-HEX``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longbow_quarrel.errors import ModelFormatError, ModelNotFoundError, UsageError
from longbow_quarrel.sources.names import relative_parts

FORM = "ollama:NAME:TAG or ollama:NAMESPACE/NAME:TAG"
DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"
DEFAULT_STORES = (Path("~/.ollama/models"), Path("/usr/share/ollama/.ollama/models"))
MODEL_LAYER = "application/vnd.ollama.image.model"

_DIGEST = re.compile(r"sha256[:-](?P<hex>[0-9a-f]{64})")
_MAX_MANIFEST_BYTES = 1 << 20
_MAX_LISTED = 8


@dataclass(frozen=True)
class _Name:
    host: str
    namespace: str
    name: str
    tag: str

    def __str__(self) -> str:
        parts = [self.host, self.namespace, self.name]
        if self.host == DEFAULT_HOST:
            del parts[: 2 if self.namespace == DEFAULT_NAMESPACE else 1]
        return f"{'/'.join(parts)}:{self.tag}"

    def manifest(self, store: Path) -> Path:
        return store / "manifests" / self.host / self.namespace / self.name / self.tag


def resolve(spec: str, *, store: Path | None = None) -> Path:
    """Return the path of the GGUF blob that ``spec`` names.

    Args:
        spec: the part of the MODEL string after ``ollama:``, that is ``NAME[:TAG]``,
            ``NAMESPACE/NAME[:TAG]`` or ``HOST/NAMESPACE/NAME[:TAG]``; the tag defaults to
            ``latest``.
        store: the folder that holds ``manifests`` and ``blobs`` (what OLLAMA_MODELS names);
            None looks in the usual places.

    Raises:
        UsageError: ``spec`` is malformed or tries to leave the store.
        ModelNotFoundError: no store, no such model or tag, or its blob is missing.
        ModelFormatError: the manifest is damaged or holds no GGUF layer.
    """
    name = _parse(spec)
    stores = _existing_stores(store)
    for candidate in stores:
        manifest = name.manifest(candidate)
        if manifest.is_file():
            return _blob(candidate, manifest, name)
    raise ModelNotFoundError(_missing_message(name, stores))


def _parse(spec: str) -> _Name:
    whole = f"ollama:{spec}"
    path, colon, tag = spec.rpartition(":")
    if not colon:
        path, tag = spec, DEFAULT_TAG
    parts = relative_parts(path, spec=whole, form=FORM)
    tags = relative_parts(tag, spec=whole, form=FORM)
    if len(parts) > 3 or len(tags) > 1:
        raise UsageError(f"[ollama] {whole!r} has too many parts: write {FORM}.")
    host, namespace, name = (DEFAULT_HOST, DEFAULT_NAMESPACE)[: 3 - len(parts)] + parts
    return _Name(host, namespace, name, tags[0])


def _existing_stores(store: Path | None) -> list[Path]:
    places = [place.expanduser() for place in ((store,) if store else DEFAULT_STORES)]
    found = [place for place in places if (place / "manifests").is_dir()]
    if found:
        return found
    raise ModelNotFoundError(
        f"[ollama] there is no Ollama store in {' or '.join(map(str, places))}: set OLLAMA_MODELS "
        "to the folder that holds manifests and blobs, or give the path of a .gguf file."
    )


def _names(store: Path) -> Iterator[_Name]:
    for manifest in sorted((store / "manifests").glob("*/*/*/*")):
        if manifest.is_file():
            yield _Name(*manifest.relative_to(store / "manifests").parts)


def _missing_message(wanted: _Name, stores: list[Path]) -> str:
    present = [name for store in stores for name in _names(store)]
    places = " and ".join(map(str, stores))
    same = [
        name
        for name in present
        if (name.host, name.namespace, name.name) == (wanted.host, wanted.namespace, wanted.name)
    ]
    if same:
        tags = ", ".join(name.tag for name in same[:_MAX_LISTED])
        return f"[ollama] {wanted} is not in {places}: name one of its tags there, {tags}."
    if not present:
        return f"[ollama] {wanted} is not in {places}, which is empty: run `ollama pull {wanted}`."
    listed = ", ".join(map(str, present[:_MAX_LISTED]))
    more = f" and {len(present) - _MAX_LISTED} more" if len(present) > _MAX_LISTED else ""
    return (
        f"[ollama] {wanted} is not in {places}, which has {listed}{more}: name one of these or run "
        f"`ollama pull {wanted}`."
    )


def _read_manifest(manifest: Path) -> list[dict[str, Any]]:
    try:
        with manifest.open("rb") as handle:
            layers = json.loads(handle.read(_MAX_MANIFEST_BYTES))["layers"]
        if isinstance(layers, list) and all(isinstance(layer, dict) for layer in layers):
            return layers
        reason = "its layers are no list of objects"
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
    raise ModelFormatError(
        f"[ollama] the manifest {manifest} cannot be read ({reason}): pull the model again "
        "with Ollama."
    )


def _blob(store: Path, manifest: Path, name: _Name) -> Path:
    layers = [layer for layer in _read_manifest(manifest) if layer.get("mediaType") == MODEL_LAYER]
    if not layers:
        raise ModelFormatError(
            f"[ollama] {name} has no GGUF layer in {manifest}: choose a model that Ollama runs "
            "from a local GGUF file."
        )
    digest = _DIGEST.fullmatch(str(layers[0].get("digest")))
    if digest is None:
        raise ModelFormatError(
            f"[ollama] expected a digest sha256:HEX in {manifest}, got "
            f"{layers[0].get('digest')!r}: pull the model again with Ollama."
        )
    blob = store / "blobs" / f"sha256-{digest['hex']}"
    if not blob.is_file():
        raise ModelNotFoundError(
            f"[ollama] {name} is in the store, but its file {blob} is missing: run "
            f"`ollama pull {name}`."
        )
    size = layers[0].get("size")
    if isinstance(size, int) and blob.stat().st_size != size:
        raise ModelFormatError(
            f"[ollama] {blob} has {blob.stat().st_size} bytes, its manifest says {size}: run "
            f"`ollama pull {name}` again."
        )
    return blob.absolute()
