"""Models that are files on this machine."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from longbow_quarrel.errors import ModelNotFoundError

_SPLIT = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_MAX_LISTED = 5


def looks_like_path(model: str) -> bool:
    """True if ``model`` can only be meant as a path (it may or may not exist)."""
    return "/" in model or "\\" in model or model.startswith(("~", ".")) or model.endswith(".gguf")


def resolve(model: str, *, catalog_names: Iterable[str] = ()) -> Path:
    """Return the absolute path of the regular file that ``model`` names; ``~`` is expanded.

    The first file of a split model (``NAME-00001-of-00003.gguf``) stands for the whole model.

    Raises:
        ModelNotFoundError: there is nothing there, or it is a directory, a device or a later part
            of a split model. The message says what lies nearby.
    """
    path = _expanded(model)
    try:
        if path.is_dir():
            raise ModelNotFoundError(_directory_message(path))
        if path.is_file():
            return _whole_model(path)
        exists = path.exists()
    except (OSError, ValueError) as error:  # too long, embedded NUL, no permission
        raise ModelNotFoundError(
            f"[model] cannot look at {model!r} ({error}): give the path of a readable .gguf file."
        ) from error
    if exists:
        raise ModelNotFoundError(
            f"[model] {path} is not a regular file: give the path of a .gguf file."
        )
    raise ModelNotFoundError(_missing_message(path, catalog_names))


def _expanded(model: str) -> Path:
    if "\0" in model:
        raise ModelNotFoundError(f"[model] {model!r} holds a NUL character: give a real path.")
    try:
        return Path(model).expanduser().absolute()
    except RuntimeError as error:  # ~somebody who does not exist
        raise ModelNotFoundError(
            f"[model] {model!r} names an unknown home directory: give the full path."
        ) from error


def _whole_model(path: Path) -> Path:
    split = _SPLIT.fullmatch(path.name)
    if split is None or int(split["number"]) == 1:
        return path
    first = path.with_name(f"{split['stem']}-00001-of-{split['count']}.gguf")
    raise ModelNotFoundError(
        f"[model] {path.name} is part {int(split['number'])} of {int(split['count'])} of a split "
        f"model: give its first part, {first}."
    )


def _gguf_names(directory: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in directory.iterdir() if entry.suffix == ".gguf")
    except OSError:
        return []


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(names[:_MAX_LISTED]) + more


def _directory_message(path: Path) -> str:
    names = _gguf_names(path)
    if names:
        return f"[model] {path} is a directory: give one of the files in it, {_listed(names)}."
    return f"[model] {path} is a directory without .gguf files: give the path of a .gguf file."


def _missing_message(path: Path, catalog_names: Iterable[str]) -> str:
    import difflib

    name = path.name.removesuffix(".gguf").lower()
    known = difflib.get_close_matches(name, list(catalog_names), n=1, cutoff=0.6)
    if known:
        hint = f"give an existing path, or the catalogue name {known[0]}"
    elif names := _gguf_names(path.parent):
        near = difflib.get_close_matches(path.name, names, n=_MAX_LISTED, cutoff=0.5) or names
        hint = f"there is {_listed(near)} in {path.parent}"
    elif path.parent.is_dir():
        hint = "give the path of a .gguf file, or a catalogue name (see the command models)"
    else:
        hint = f"the directory {path.parent} does not exist either"
    return f"[model] there is no file {path}: {hint}."
