from __future__ import annotations

import itertools
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longbow_quarrel.errors import TokenizerError
from longbow_quarrel.tokenizer import Tokenizer
from longbow_quarrel.tokenizer.pre_tokenizers import PRE_TOKENIZERS
from tokenizer.vocabularies import byte_alphabet, byte_level, goldens

MERGES = goldens()["merges"]
# GPT-2's cut for ASCII text, where Python's own expressions can say it.
GPT2_ASCII = re.compile(
    r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+"
)
TRAINED_METADATA = byte_level(MERGES)
TRAINED = Tokenizer.from_metadata(TRAINED_METADATA)
TRAINED_IDS = {piece: i for i, piece in enumerate(TRAINED_METADATA["tokenizer.ggml.tokens"])}
ASCII = st.text(st.sampled_from(" \n\tabcdehlostrxAB0123'.,-_=!"), max_size=60)


def naive_ids(text: str, merges: list[str], ids: dict[str, int]) -> list[int]:
    """BPE as its definition reads: again and again the pair of the lowest rank, leftmost first."""
    ranks = {tuple(merge.split(" ")): rank for rank, merge in reversed(list(enumerate(merges)))}
    alphabet = byte_alphabet()
    result = []
    for word in GPT2_ASCII.findall(text):
        symbols = [alphabet[byte] for byte in word.encode()]
        while True:
            pairs = [
                (ranks[pair], i)
                for i, pair in enumerate(itertools.pairwise(symbols))
                if pair in ranks
            ]
            if not pairs:
                break
            _, at = min(pairs)
            symbols[at : at + 2] = ["".join(symbols[at : at + 2])]
        result += [ids[symbol] for symbol in symbols]
    return result


@given(ASCII)
def test_equals_the_naive_merge(text: str) -> None:
    assert TRAINED.encode(text) == naive_ids(text, MERGES, TRAINED_IDS)


@settings(max_examples=50)
@given(st.permutations(MERGES[:40]), ASCII)
def test_equals_the_naive_merge_for_any_order_of_merges(merges: list[str], text: str) -> None:
    metadata = byte_level(merges)
    ids = {piece: i for i, piece in enumerate(metadata["tokenizer.ggml.tokens"])}
    assert Tokenizer.from_metadata(metadata).encode(text) == naive_ids(text, merges, ids)


@pytest.mark.parametrize("pre", sorted({str(p): n for n, p in PRE_TOKENIZERS.items()}.values()))
def test_any_text_survives_the_round_trip(pre: str) -> None:
    tokenizer = Tokenizer.from_metadata(byte_level(MERGES, pre=pre, bos_token_id=0))

    @settings(max_examples=60)
    @given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
    def check(text: str) -> None:
        ids = tokenizer.encode(text, add_special=False)
        assert tokenizer.decode(ids) == text

    check()


def test_unknown_and_missing_pre_tokenizers_are_refused() -> None:
    with pytest.raises(TokenizerError, match=r"'klingon'.*llama-bpe.*qwen2.*smollm"):
        Tokenizer.from_metadata(byte_level(MERGES, pre="klingon"))
    with pytest.raises(TokenizerError, match=r"tokenizer\.ggml\.pre is missing"):
        Tokenizer.from_metadata(byte_level(MERGES, pre=None))


def test_ignore_merges_keeps_whole_words() -> None:
    merges = ["a b", "c d", "b c"]
    extra = [("abcd", 1)]
    plain = Tokenizer.from_metadata(byte_level(merges, extra, pre="gpt-2"))
    whole = Tokenizer.from_metadata(byte_level(merges, extra, pre="llama-bpe", bos_token_id=0))
    assert [plain.piece(i) for i in plain.encode("abcd")] == ["ab", "cd"]
    assert [whole.piece(i) for i in whole.encode("abcd", add_special=False)] == ["abcd"]


@pytest.mark.parametrize(
    ("merges", "message"),
    [
        (["ab"], r"merges\[0\] is 'ab'"),
        (["a "], r"merges\[0\]"),
        (["a b", "a q€"], "does not fit the vocabulary"),
        (None, r"tokenizer\.ggml\.merges is missing"),
        (7, "should be an array of strings"),
    ],
)
def test_broken_merges_are_refused(merges: object, message: str) -> None:
    metadata = byte_level(["a b"])
    metadata["tokenizer.ggml.merges"] = merges
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.from_metadata(metadata)


def test_the_first_of_two_equal_merges_counts() -> None:
    tokenizer = Tokenizer.from_metadata(byte_level(["b c", "a b", "b c"]))
    assert [tokenizer.piece(i) for i in tokenizer.encode("abc")] == ["a", "bc"]


def test_a_byte_without_a_token_is_left_out_as_in_llama_cpp() -> None:
    metadata = byte_level([])
    index = metadata["tokenizer.ggml.tokens"].index("z")
    metadata["tokenizer.ggml.tokens"][index] = "<hole>"
    tokenizer = Tokenizer.from_metadata(metadata)
    assert tokenizer.decode(tokenizer.encode("a puzzle")) == "a pule"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe", "tekken", "gpt-4o", "deepseek-llm"])
@pytest.mark.parametrize("unit", ["The cat sat on the mat, 42 times.\n", "a", "字", " ", "'", "É"])
def test_long_text_takes_time_in_proportion(pre: str, unit: str) -> None:
    tokenizer = Tokenizer.from_metadata(byte_level(MERGES, pre=pre, bos_token_id=0))
    text = unit * (200_000 // len(unit))
    start = time.perf_counter()
    ids = tokenizer.encode(text, add_special=False)
    assert time.perf_counter() - start < 20
    assert tokenizer.decode(ids) == text
