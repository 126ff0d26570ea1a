"""Checks of the names inside MODEL strings, before any of them becomes part of a path or URL."""

from __future__ import annotations

import re

from longbow_quarrel.errors import UsageError

_PART = re.compile(r"\w[\w.+\-=@,() \[\]]*")


def relative_parts(text: str, *, spec: str, form: str) -> tuple[str, ...]:
    """Split ``a/b/c`` into parts that are safe to join to a directory.

    Args:
        text: the name to split.
        spec: the whole string the user gave, for the message.
        form: the form it should have, for the message.

    Raises:
        UsageError: the name is empty or absolute, holds ``..``, a hidden part or a character that
            has no place in a file name.
    """
    parts = tuple(text.split("/"))
    if all(_PART.fullmatch(part) and ".." not in part for part in parts):
        return parts
    raise UsageError(
        f"[model] {text!r} in {spec!r} is not a plain relative name: write {form}, with names of "
        "letters, digits and . _ - + only."
    )
