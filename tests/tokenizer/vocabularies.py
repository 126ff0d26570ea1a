"""Small vocabularies for the tokenizer tests, and the way to real ones."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
GOLDENS = Path(__file__).parent / "data" / "goldens.json"

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6


@cache
def read_metadata(path: Path) -> dict[str, Any]:
    """All keys of a GGUF file; through the native reader where it is built."""
    try:
        from longbow_quarrel._core import GGUFFile
    except ImportError:
        import gguf

        return {key: field.contents() for key, field in gguf.GGUFReader(path).fields.items()}
    return dict(GGUFFile(str(path)).metadata)


@cache
def goldens() -> dict[str, Any]:
    """Texts and ids made by llama.cpp; see data/make_goldens.py."""
    loaded: dict[str, Any] = json.loads(GOLDENS.read_text(encoding="utf-8"))
    return loaded


def byte_alphabet() -> list[str]:
    """GPT-2's characters for the bytes 0 to 255, in the order of the bytes."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    moved = iter(range(256, 512))
    return [chr(byte if byte in printable else next(moved)) for byte in range(256)]


def byte_level(
    merges: list[str],
    special: list[tuple[str, int]] | None = None,
    pre: str = "gpt-2",
    **keys: object,
) -> dict[str, Any]:
    """Metadata of a byte-level vocabulary: 256 bytes, one token per merge, special tokens.

    `keys` are further ``tokenizer.ggml.*`` keys; None takes one away.
    """
    pieces = [*byte_alphabet(), *dict.fromkeys(merge.replace(" ", "") for merge in merges)]
    types = [NORMAL] * len(pieces)
    for piece, kind in special or []:
        pieces.append(piece)
        types.append(kind)
    return _metadata(
        {"model": "gpt2", "pre": pre, "tokens": pieces, "token_type": types, "merges": merges},
        keys,
    )


def sentencepiece(
    pieces: list[tuple[str, float]],
    special: list[tuple[str, int]] | None = None,
    **keys: object,
) -> dict[str, Any]:
    """Metadata of a SentencePiece-style vocabulary: unk, BOS, EOS, special tokens, 256 bytes, then
    `pieces` with their scores. `keys` as for :func:`byte_level`."""
    head = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL), *(special or [])]
    tokens = [piece for piece, _ in head]
    types = [kind for _, kind in head]
    tokens += [f"<0x{byte:02X}>" for byte in range(256)]
    types += [BYTE] * 256
    scores = [0.0] * len(tokens)
    tokens += [piece for piece, _ in pieces]
    types += [NORMAL] * len(pieces)
    scores += [score for _, score in pieces]
    return _metadata(
        {"model": "llama", "tokens": tokens, "token_type": types, "scores": scores}, keys
    )


def _metadata(values: dict[str, Any], keys: dict[str, object]) -> dict[str, Any]:
    merged = {**values, **keys}
    return {f"tokenizer.ggml.{key}": v for key, v in merged.items() if v is not None}
