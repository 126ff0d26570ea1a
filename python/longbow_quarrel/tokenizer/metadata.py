"""Typed access to the ``tokenizer.*`` keys of a GGUF file.

The values come from a file that nobody vouches for, so every one is checked here, once; the rest
of the package works on what these functions return.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any, Protocol

from longbow_quarrel import _core
from longbow_quarrel.errors import TokenizerError


class Metadata(Protocol):
    """A mapping, or a GGUF file itself: its arrays are then read without a copy in Python."""

    def get(self, key: str, /) -> object: ...


# Converters write "no such token" as -1, which an unsigned field turns into 2**32 - 1.
_ABSENT_IDS = (-1, 0xFFFFFFFF)


def _refuse(key: str, expected: str, value: object) -> TokenizerError:
    return TokenizerError(
        f"{key} should be {expected} but is {type(value).__name__}; convert the model again."
    )


def _scalar(value: object) -> object:
    """A number as Python's own, whichever library it is of."""
    if isinstance(value, (bool, int, float, str)) or value is None:
        return value
    return value.item() if hasattr(value, "item") and not hasattr(value, "__len__") else value


def read_str(metadata: Metadata, key: str) -> str | None:
    """The string under `key`, or None when the key is absent."""
    value = metadata.get(key)
    if value is not None and not isinstance(value, str):
        raise _refuse(key, "a string", value)
    return value


def read_bool(metadata: Metadata, key: str, default: bool) -> bool:
    """The boolean under `key`, or `default` when the key is absent."""
    value = _scalar(metadata.get(key))
    if value is None:
        return default
    if not isinstance(value, bool):
        raise _refuse(key, "a boolean", value)
    return value


def read_token_id(metadata: Metadata, key: str, vocab_size: int) -> int | None:
    """The token id under `key`, or None when the key is absent or says "no such token".

    Raises:
        TokenizerError: The value is not an integer or names no token of the vocabulary.
    """
    value = _scalar(metadata.get(key))
    if value is None or value in _ABSENT_IDS:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise _refuse(key, "a token id", value)
    if not 0 <= value < vocab_size:
        raise TokenizerError(
            f"{key} is {value} but the vocabulary holds tokens 0 to {vocab_size - 1}; "
            "convert the model again."
        )
    return value


def read_strings(metadata: Metadata, key: str) -> _core.Strings:
    """The array of strings under `key`.

    Raises:
        TokenizerError: The key is absent or its value is not an array of strings.
    """
    if isinstance(metadata, _core.GGUFFile):
        packed = metadata.strings(key)
        if packed is not None:
            return packed
    value: Any = metadata.get(key)
    if value is None:
        raise TokenizerError(f"{key} is missing from the model file; convert the model again.")
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise _refuse(key, "an array of strings", value)
    stray = next((s for s in value if type(s) is not str), None)
    if stray is not None:
        raise _refuse(key, "an array of strings", stray)
    try:
        return _core.Strings(value)
    except UnicodeEncodeError as error:
        raise TokenizerError(
            f"{key} holds a piece that is no text; convert the model again."
        ) from error


def read_numbers(metadata: Metadata, key: str, count: int, code: str) -> array[Any] | None:
    """The first `count` numbers of the array under `key`, or None when absent.

    Args:
        code: What to read them as, for :class:`array.array`: ``"i"`` (int32) or ``"f"`` (float32).

    Raises:
        TokenizerError: The value is not an array of numbers or is shorter than `count`.
    """
    value: Any = metadata.numbers(key) if isinstance(metadata, _core.GGUFFile) else None
    if value is None:
        value = metadata.get(key)
    if value is None:
        return None
    try:
        numbers = _as_array(value, code)
    except (TypeError, ValueError, OverflowError) as error:
        raise _refuse(key, "an array of numbers", value) from error
    if len(numbers) < count:
        raise TokenizerError(
            f"{key} should hold {count} values, one per token, but holds {len(numbers)}; "
            "convert the model again."
        )
    return numbers[:count]


def _as_array(value: Any, code: str) -> array[Any]:
    if isinstance(value, (str, bytes)):
        raise TypeError("text is no array")
    if isinstance(value, memoryview) and value.format == code:
        numbers = array(code)
        numbers.frombytes(value.cast("B"))
        return numbers
    if hasattr(value, "tolist"):
        value = value.tolist()
    return array(code, [int(v) if code == "i" and not isinstance(v, str) else v for v in value])
