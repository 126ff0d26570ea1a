"""Typed access to the ``tokenizer.*`` keys of a GGUF file.

The values come from a file that nobody vouches for, so every one is checked here, once; the rest
of the package works on what these functions return.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from longbow_quarrel.errors import TokenizerError

Metadata = Mapping[str, object]

# Converters write "no such token" as -1, which an unsigned field turns into 2**32 - 1.
_ABSENT_IDS = (-1, 0xFFFFFFFF)


def _refuse(key: str, expected: str, value: object) -> TokenizerError:
    return TokenizerError(
        f"{key} should be {expected} but is {type(value).__name__}; convert the model again."
    )


def _scalar(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else value


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


def read_strings(metadata: Metadata, key: str) -> list[str]:
    """The array of strings under `key`.

    Raises:
        TokenizerError: The key is absent or its value is not an array of strings.
    """
    value: Any = metadata.get(key)
    if value is None:
        raise TokenizerError(f"{key} is missing from the model file; convert the model again.")
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise _refuse(key, "an array of strings", value)
    strings = list(value)
    if not set(map(type, strings)) <= {str}:
        raise _refuse(key, "an array of strings", next(s for s in strings if type(s) is not str))
    return strings


def read_numbers(
    metadata: Metadata, key: str, count: int, dtype: type[np.generic]
) -> npt.NDArray[Any] | None:
    """The first `count` numbers of the array under `key` as `dtype`, or None when absent.

    Raises:
        TokenizerError: The value is not an array of numbers or is shorter than `count`.
    """
    value: Any = metadata.get(key)
    if value is None:
        return None
    try:
        numbers = np.asarray(value, dtype=dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise _refuse(key, "an array of numbers", value) from error
    if numbers.ndim != 1 or len(numbers) < count:
        raise TokenizerError(
            f"{key} should hold {count} values, one per token, but has shape "
            f"{numbers.shape}; convert the model again."
        )
    return numbers[:count]
