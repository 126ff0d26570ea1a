"""Values of the command line: lists of numbers (``0,4096``), text files."""

from __future__ import annotations

from pathlib import Path

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


def read_text(path: Path) -> str:
    """What a text file holds.

    Raises:
        UsageError: it cannot be read, or is no UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as e:
        raise UsageError(f"{path} is no UTF-8 text (byte {e.start}); convert it first.") from None
    except OSError as e:
        raise UsageError(f"{path} cannot be read ({e.strerror}); give a text file.") from None
