from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longbow_quarrel.errors import TokenizerError, UsageError
from longbow_quarrel.tokenizer import Tokenizer
from longbow_quarrel.tokenizer.sentencepiece import SentencePieceBPE
from longbow_quarrel.tokenizer.vocabulary import Vocabulary
from tokenizer.vocabularies import goldens, sentencepiece

LETTERS = "ab▁"
# Few scores, so that ties abound.
PIECES = st.lists(
    st.tuples(st.text(LETTERS, min_size=1, max_size=5), st.sampled_from([-1.0, -2.0, -3.0])),
    max_size=25,
    unique_by=lambda entry: entry[0],
)


def naive_pieces(text: str, scores: dict[str, float]) -> list[str]:
    """Again and again the pair with the best score, leftmost among equals."""
    symbols = list(text.replace(" ", "▁"))
    while True:
        pairs = [
            (-scores[left + right], i)
            for i, (left, right) in enumerate(itertools.pairwise(symbols))
            if left + right in scores
        ]
        if not pairs:
            return symbols
        _, at = min(pairs)
        symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]


@settings(max_examples=500)
@given(PIECES, st.text("ab é", max_size=25))
def test_equals_the_naive_merge(pieces: list[tuple[str, float]], text: str) -> None:
    tokenizer = Tokenizer.from_metadata(sentencepiece(pieces, add_space_prefix=False))
    ids = tokenizer.encode(text, add_special=False)
    expected: list[int] = []
    for symbol in naive_pieces(text, dict(pieces)):
        known = tokenizer.id_of(symbol)
        bytes_ = [tokenizer.id_of(f"<0x{byte:02X}>") for byte in symbol.encode()]
        expected += bytes_ if known is None else [known]
    assert ids == expected
    assert tokenizer.encode(text, add_special=False) == ids, "the word cache changed the result"


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁"), max_size=60))
def test_any_text_survives_the_round_trip(text: str) -> None:
    assert GOLDEN.decode(GOLDEN.encode(text)) == text


GOLDEN = Tokenizer.from_metadata(sentencepiece([tuple(p) for p in goldens()["pieces"]]))


def test_leftmost_goes_first_when_two_pairs_make_the_same_piece() -> None:
    tokenizer = Tokenizer.from_metadata(
        sentencepiece([("a", -9.0), ("aa", -1.0), ("aaa", -2.0)], add_space_prefix=False)
    )
    split = [tokenizer.piece(i) for i in tokenizer.encode("aaaaa", add_special=False)]
    assert split == ["aa", "aaa"]


def test_a_space_mark_inside_a_piece_joins_words() -> None:
    tokenizer = Tokenizer.from_metadata(
        sentencepiece([("a▁", -2.0), ("a▁b", -1.0), ("▁", -9.0), ("b", -9.0)])
    )
    split = [tokenizer.piece(i) for i in tokenizer.encode("a b", add_special=False)]
    assert split == ["▁", "a▁b"]


def test_unknown_characters_fall_back_to_bytes() -> None:
    tokenizer = Tokenizer.from_metadata(sentencepiece([("▁", -1.0)]))
    ids = tokenizer.encode("é", add_special=False)
    assert [tokenizer.token_bytes(i) for i in ids] == [b" ", b"\xc3", b"\xa9"]
    assert tokenizer.decode(ids) == "é"


def test_without_byte_tokens_the_unknown_token_stands_in() -> None:
    keys = {"tokens": ["<unk>", "a"], "token_type": [2, 1], "scores": [0.0, -1.0]}
    keys |= {"add_bos_token": False, "add_space_prefix": False}
    assert Tokenizer.from_metadata(sentencepiece([], **keys)).encode("aé") == [1, 0, 0]


def test_a_character_with_no_token_at_all_is_a_clear_error() -> None:
    keys = {"tokens": ["a"], "token_type": [1], "scores": [-1.0], "add_bos_token": False}
    vocabulary = Vocabulary.from_metadata(sentencepiece([], **keys))
    del vocabulary.roles["unk"]
    tokenizer = SentencePieceBPE(vocabulary)
    with pytest.raises(UsageError, match="no token for 'é'"):
        tokenizer.encode("aé")


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (None, "scores is missing"),
        ([0.0], "should hold .* values"),
        ("many", "should be an array of numbers"),
        (np.full(300, np.nan, np.float32), "no numbers"),
    ],
)
def test_broken_scores_are_refused(scores: object, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.from_metadata(sentencepiece([("a", -1.0)], scores=scores))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("unit", ["The cat sat on the mat, 42 times.\n", "a", "字", " ", "ab", "-"])
def test_long_text_takes_time_in_proportion(unit: str) -> None:
    text = unit * (200_000 // len(unit))
    start = time.perf_counter()
    ids = GOLDEN.encode(text)
    assert time.perf_counter() - start < 20
    assert GOLDEN.decode(ids) == text


@pytest.mark.timeout(60)
def test_a_large_vocabulary_loads_quickly() -> None:
    pieces = [(f"▁w{i}", -float(i)) for i in range(262_144)]
    metadata = sentencepiece(pieces)
    start = time.perf_counter()
    tokenizer = Tokenizer.from_metadata(metadata)
    assert time.perf_counter() - start < 5
    assert tokenizer.vocab_size == 262_144 + 259
