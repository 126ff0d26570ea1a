from __future__ import annotations

import pytest

from longbow_quarrel.tokenizer import Tokenizer
from tokenizer.vocabularies import CONTROL, UNKNOWN, USER_DEFINED, byte_level, sentencepiece

SPECIAL = [("<|im_start|>", CONTROL), ("<|im_end|>", CONTROL), ("<tool>", USER_DEFINED)]


def pieces(tokenizer: Tokenizer, text: str, **options: bool) -> list[str]:
    return [tokenizer.piece(i) for i in tokenizer.encode(text, add_special=False, **options)]


def test_control_tokens_are_read_on_request_and_user_defined_ones_always() -> None:
    tokenizer = Tokenizer.from_metadata(byte_level([], SPECIAL))
    text = "a<|im_end|><tool>b"
    assert pieces(tokenizer, text, parse_special=True) == ["a", "<|im_end|>", "<tool>", "b"]
    assert pieces(tokenizer, text) == [*"a<|im_end|>", "<tool>", "b"]
    for parse_special in (True, False):
        ids = tokenizer.encode(text, parse_special=parse_special)
        assert tokenizer.decode(ids, skip_special=False) == text


def test_the_longest_token_is_found_first_wherever_it_stands() -> None:
    special = [("<a", USER_DEFINED), ("<a><b", USER_DEFINED), ("a><b>", USER_DEFINED)]
    tokenizer = Tokenizer.from_metadata(byte_level([], special))
    assert pieces(tokenizer, "<a><b>") == ["<a><b", ">"]
    tokenizer = Tokenizer.from_metadata(byte_level([], [special[0], special[2]]))
    assert pieces(tokenizer, "<a><b><a") == ["<", "a><b>", "<a"]


def test_unknown_tokens_count_as_special() -> None:
    tokenizer = Tokenizer.from_metadata(sentencepiece([("▁", -1.0)]))
    assert pieces(tokenizer, "<unk>", parse_special=True) == ["<unk>"]
    assert tokenizer.decode([0]) == ""
    assert tokenizer.decode([0], skip_special=False) == "<unk>"


def test_text_after_a_special_token_gets_the_space_prefix() -> None:
    metadata = sentencepiece([("▁", -1.0), ("a", -1.0)], [("<user>", USER_DEFINED)])
    tokenizer = Tokenizer.from_metadata(metadata)
    assert pieces(tokenizer, "a</s>a<user>a", parse_special=True) == [
        *("▁", "a", "</s>", "▁", "a", "<user>", "▁", "a")
    ]
    metadata["tokenizer.ggml.add_space_prefix"] = False
    tokenizer = Tokenizer.from_metadata(metadata)
    assert pieces(tokenizer, "a</s>a", parse_special=True) == ["a", "</s>", "a"]


def test_phi_3_swallows_whitespace_after_its_tokens() -> None:
    metadata = byte_level([], [("<|user|>", CONTROL), ("<s>", CONTROL)])
    metadata["general.name"] = "Phi-3 mini"
    tokenizer = Tokenizer.from_metadata(metadata)
    text = "<s> x <|user|> \n y<|user|>  "
    expected = ["<s>", "Ġ", "x", "Ġ", "<|user|>", "y", "<|user|>"]
    assert pieces(tokenizer, text, parse_special=True) == expected


def test_a_mask_token_swallows_whitespace_before_it() -> None:
    tokenizer = Tokenizer.from_metadata(byte_level([], [("<mask>", CONTROL)], pre="jina-v2-code"))
    assert pieces(tokenizer, "  <mask> a <mask>", parse_special=True) == [
        *("<mask>", "Ġ", "a", "<mask>")
    ]


@pytest.mark.parametrize("parse_special", [True, False])
def test_thousands_of_special_tokens_cost_little(parse_special: bool) -> None:
    special = [(f"<unused{i}>", CONTROL) for i in range(6000)]
    tokenizer = Tokenizer.from_metadata(byte_level([], special))
    text = "a <unused> text with <unused17> in it. " * 2000
    ids = tokenizer.encode(text, parse_special=parse_special)
    assert tokenizer.decode(ids, skip_special=False) == text
    assert ids.count(tokenizer.id_of("<unused17>")) == (2000 if parse_special else 0)


def test_unknown_type_tokens_of_byte_level_models_are_special_too() -> None:
    tokenizer = Tokenizer.from_metadata(byte_level([], [("[UNK]", UNKNOWN)]))
    assert pieces(tokenizer, "[UNK]", parse_special=True) == ["[UNK]"]
    assert pieces(tokenizer, "[UNK]") == list("[UNK]")
