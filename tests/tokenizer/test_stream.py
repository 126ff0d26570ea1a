from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longbow_quarrel.errors import UsageError
from longbow_quarrel.tokenizer import Tokenizer
from tokenizer.vocabularies import CONTROL, byte_level, goldens, sentencepiece

BYTES = Tokenizer.from_metadata(byte_level(["ð Ł"], [("<|im_end|>", CONTROL)]))
TRAINED = Tokenizer.from_metadata(byte_level(goldens()["merges"], [("<|im_end|>", CONTROL)]))
PIECES = Tokenizer.from_metadata(sentencepiece([tuple(p) for p in goldens()["pieces"]]))
TOKENIZERS = [BYTES, TRAINED, PIECES]


def stream(tokenizer: Tokenizer, ids: list[int], **options: bool) -> list[str]:
    decoder = tokenizer.stream_decoder(**options)
    return [*map(decoder.push, ids), decoder.finish()]


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("skip_special", [True, False])
@pytest.mark.parametrize("continuation", [True, False])
def test_any_ids_stream_to_what_decode_gives(
    tokenizer: Tokenizer, skip_special: bool, continuation: bool
) -> None:
    @given(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=30))
    def check(ids: list[int]) -> None:
        options = {"skip_special": skip_special, "continuation": continuation}
        assert "".join(stream(tokenizer, ids, **options)) == tokenizer.decode(ids, **options)

    check()


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_text_never_shows_half_a_character(tokenizer: Tokenizer) -> None:
    @given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁\ufffd")))
    def check(text: str) -> None:
        shown = ""
        decoder = tokenizer.stream_decoder()
        for token_id in tokenizer.encode(text):
            shown += decoder.push(token_id)
            assert text.startswith(shown)
        assert shown == text
        assert decoder.finish() == ""

    check()


def test_an_emoji_over_three_tokens_comes_out_whole() -> None:
    ids = BYTES.encode("🙂")
    assert [BYTES.token_bytes(i) for i in ids] == [b"\xf0\x9f", b"\x99", b"\x82"]
    assert stream(BYTES, ids) == ["", "", "🙂", ""]


def test_bytes_that_are_no_utf8_become_replacement_characters() -> None:
    lone, lead = (BYTES.encode("é")[i] for i in (1, 0))
    letter = BYTES.encode("a")[0]
    assert stream(BYTES, [lone, letter]) == ["\ufffd", "a", ""]
    assert stream(BYTES, [lead, letter]) == ["", "\ufffda", ""]
    assert stream(BYTES, [lead]) == ["", "\ufffd"]


def test_special_tokens_are_hidden_or_shown() -> None:
    end = BYTES.id_of("<|im_end|>")
    assert end is not None
    ids = [*BYTES.encode("a"), end]
    assert stream(BYTES, ids) == ["a", "", ""]
    assert stream(BYTES, ids, skip_special=False) == ["a", "<|im_end|>", ""]


def test_the_first_space_is_dropped_at_the_start_of_a_text_only() -> None:
    ids = PIECES.encode("two words", add_special=False)
    assert "".join(stream(PIECES, ids)) == "two words"
    assert "".join(stream(PIECES, [1, *ids])) == "two words"
    assert "".join(stream(PIECES, ids, continuation=True)) == " two words"
    assert "".join(stream(PIECES, [1, *ids], skip_special=False)) == "<s> two words"


def test_ids_outside_the_vocabulary_are_a_clear_error() -> None:
    for token_id in (-1, BYTES.vocab_size, 1.0, "1", None):
        with pytest.raises(UsageError, match="is no token of this model; ids go from 0 to 257"):
            BYTES.stream_decoder().push(token_id)  # type: ignore[arg-type]
