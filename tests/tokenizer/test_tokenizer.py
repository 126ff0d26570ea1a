"""What the file asks for: models, special ids, flags, end of generation; and bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from longbow_quarrel.errors import TokenizerError, UsageError
from longbow_quarrel.tokenizer import Tokenizer
from tokenizer.vocabularies import CONTROL, NORMAL, USER_DEFINED, byte_level, sentencepiece

PIECES = [("▁", -2.0), ("a", -1.0), ("▁a", -0.5)]


def test_sentencepiece_defaults() -> None:
    tokenizer = Tokenizer.from_metadata(sentencepiece(PIECES))
    assert (tokenizer.model, tokenizer.pre) == ("llama", None)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id) == (1, 2, 0)
    assert (tokenizer.eot_id, tokenizer.eom_id, tokenizer.pad_id) == (None, None, None)
    assert tokenizer.vocab_size == 262
    assert tokenizer.encode("a") == [1, tokenizer.id_of("▁a")]
    assert tokenizer.encode("") == [1]
    assert tokenizer.encode("", add_special=False) == []


def test_byte_level_defaults() -> None:
    tokenizer = Tokenizer.from_metadata(byte_level([]))
    assert (tokenizer.model, tokenizer.pre) == ("gpt2", "gpt-2")
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id) == (None, None, None)
    assert tokenizer.eog_ids == frozenset()
    assert tokenizer.encode("") == []
    assert tokenizer.decode([]) == ""


def test_the_file_decides_about_bos_and_eos() -> None:
    keys: dict[str, Any] = {"bos_token_id": np.uint32(7), "eos_token_id": 8}
    metadata = byte_level([], **keys, add_bos_token=True, add_eos_token=np.bool_(True))
    tokenizer = Tokenizer.from_metadata(metadata)
    assert tokenizer.encode("a") == [7, *tokenizer.encode("a", add_special=False), 8]
    assert Tokenizer.from_metadata(byte_level([], pre="llama-bpe", **keys)).encode("") == [7]
    quiet = byte_level([], pre="llama-bpe", **keys, add_bos_token=False)
    assert Tokenizer.from_metadata(quiet).encode("") == []
    assert Tokenizer.from_metadata(sentencepiece(PIECES, add_bos_token=False)).encode("") == []


@pytest.mark.parametrize(
    ("special", "keys", "eot", "eog"),
    [
        (["<|im_end|>", "<|endoftext|>"], {}, "<|im_end|>", ["<|im_end|>", "<|endoftext|>"]),
        (["<|eot_id|>", "<|eom_id|>"], {}, "<|eot_id|>", ["<|eot_id|>", "<|eom_id|>"]),
        (["<end_of_turn>", "<eos>"], {}, "<end_of_turn>", ["<end_of_turn>", "<eos>"]),
        (["<stop>"], {"eos_token_id": 256}, None, ["<stop>"]),
        (["<turn>", "</s>"], {"eot_token_id": 256}, "<turn>", ["<turn>", "</s>"]),
        (["<|file_sep|>", "<|fim_pad|>", "<|repo_name|>", "<|fim_prefix|>"], {}, None,
         ["<|file_sep|>", "<|fim_pad|>", "<|repo_name|>"]),
        (["<|return|>", "<|call|>", "<|end|>"], {}, "<|end|>", ["<|return|>", "<|call|>"]),
        (["<|tool_response>", "</s>", "<turn|>"], {}, None, ["<|tool_response>", "<turn|>"]),
    ],
)  # fmt: skip
def test_end_of_generation(
    special: list[str], keys: dict[str, int], eot: str | None, eog: list[str]
) -> None:
    tokenizer = Tokenizer.from_metadata(byte_level([], [(s, CONTROL) for s in special], **keys))
    assert tokenizer.eot_id == (None if eot is None else tokenizer.id_of(eot))
    assert tokenizer.eog_ids == {tokenizer.id_of(piece) for piece in eog}


def test_known_control_texts_are_control_whatever_the_file_says() -> None:
    special = [("<|im_end|>", NORMAL), ("<|fim_prefix|>", USER_DEFINED), ("<|message|>", CONTROL)]
    tokenizer = Tokenizer.from_metadata(byte_level([], special))
    ids = [tokenizer.id_of(piece) for piece, _ in special]
    assert tokenizer.decode(ids) == "<|message|>"
    assert tokenizer.encode("<|im_end|>", parse_special=True) == [ids[0]]
    assert len(tokenizer.encode("<|im_end|>")) > 1


@pytest.mark.parametrize("kind", ["bert", "t5", "rwkv", "gemma4", "no_vocab"])
def test_other_kinds_are_refused_by_name(kind: str) -> None:
    with pytest.raises(TokenizerError, match=f"'{kind}' are not supported.*gpt2, llama"):
        Tokenizer.from_metadata({"tokenizer.ggml.model": kind})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"model": None}, "model is missing"),
        ({"model": 3}, "model should be a string"),
        ({"tokens": None}, "tokens is missing"),
        ({"tokens": []}, "tokens is empty"),
        ({"tokens": "abc"}, "should be an array of strings"),
        ({"tokens": ["a", 3]}, "should be an array of strings"),
        ({"tokens": ["a", "b", "a"]}, "'a' twice"),
        ({"tokens": ["\ud800"]}, "a piece that is no text"),
        ({"token_type": [1]}, "should hold 256 values"),
        ({"token_type": ["x"] * 256}, "should be an array of numbers"),
        ({"token_type": [6] * 256}, "is a byte token but is written"),
        ({"bos_token_id": 256}, "bos_token_id is 256 .* 0 to 255"),
        ({"bos_token_id": -7}, "bos_token_id is -7"),
        ({"bos_token_id": "one"}, "should be a token id"),
        ({"bos_token_id": True}, "should be a token id"),
        ({"add_bos_token": 1}, "add_bos_token should be a boolean"),
        ({"add_bos_token": True}, "bos_token_id is missing"),
        ({"pre": 3}, "pre should be a string"),
    ],
)
def test_broken_metadata_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.from_metadata(byte_level([], **keys))


def test_an_id_of_minus_one_means_none() -> None:
    metadata = byte_level([], bos_token_id=0xFFFFFFFF, eos_token_id=-1)
    tokenizer = Tokenizer.from_metadata(metadata)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (None, None)


def test_arrays_may_be_numpy() -> None:
    metadata = sentencepiece(PIECES)
    plain = Tokenizer.from_metadata(metadata)
    for key, dtype in (("scores", np.float32), ("token_type", np.int32), ("tokens", object)):
        metadata[f"tokenizer.ggml.{key}"] = np.array(metadata[f"tokenizer.ggml.{key}"], dtype)
    assert Tokenizer.from_metadata(metadata).encode("a é a") == plain.encode("a é a")


def test_empty_pieces_are_padding_rows() -> None:
    metadata = byte_level([], [("", NORMAL), ("x1", NORMAL), ("", NORMAL)])
    tokenizer = Tokenizer.from_metadata(metadata)
    assert tokenizer.vocab_size == 259
    assert tokenizer.decode(tokenizer.encode("text")) == "text"


@pytest.mark.parametrize("metadata", [byte_level([]), sentencepiece(PIECES)])
def test_strange_text(metadata: dict[str, Any]) -> None:
    tokenizer = Tokenizer.from_metadata(metadata)
    for text in ("\0", "a\0b", " ", "  a  ", "\ufeffa", "\U0010ffff", "\ufffd", "\r\n\r\n"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    with pytest.raises(UsageError, match=r"lone surrogate.* position 2"):
        tokenizer.encode("ab\ud83dcd")
    for value in (b"bytes", None, 3):
        with pytest.raises(UsageError, match="should be a string"):
            tokenizer.encode(value)  # type: ignore[arg-type]


def test_ids_outside_the_vocabulary_are_a_clear_error() -> None:
    tokenizer = Tokenizer.from_metadata(byte_level([]))
    for call in (tokenizer.token_bytes, tokenizer.piece, lambda i: tokenizer.decode([i])):
        for token_id in (-1, 256, 2**40):
            with pytest.raises(UsageError, match="ids go from 0 to 255"):
                call(token_id)
    assert tokenizer.decode(np.array([64, 65])) == tokenizer.decode([64, 65])  # type: ignore[arg-type]
    assert tokenizer.id_of("no such piece") is None


def test_token_bytes() -> None:
    tokenizer = Tokenizer.from_metadata(byte_level(["Ġ a"], [("<|im_end|>", CONTROL), ("é€", 1)]))
    assert tokenizer.token_bytes(0) == b"\x00"
    assert tokenizer.token_bytes(256) == b" a"
    assert tokenizer.token_bytes(257) == b"<|im_end|>"
    # "é" is in the byte alphabet (0xE9), "€" is not and stands for itself.
    assert tokenizer.token_bytes(258) == b"\xe9\xe2\x82\xac"
    unused = Tokenizer.from_metadata(byte_level([], [("reserved", 5), ("odd", 0)]))
    assert unused.token_bytes(256) == unused.token_bytes(257) == b""
