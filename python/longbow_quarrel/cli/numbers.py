"""Lists of numbers on the command line: ``0,4096``."""

from __future__ import annotations

from longbow_quarrel.errors import UsageError


def numbers(text: str, flag: str, *, least: int) -> list[int]:
    """The whole numbers of a list separated by commas, each at least ``least``.

    Raises:
        UsageError: it is no such list.
    """
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < least:
        raise UsageError(
            f"{flag} takes whole numbers of at least {least}, separated by commas, not {text!r}."
        )
    return list(dict.fromkeys(found))
