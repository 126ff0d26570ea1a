"""Every pre-tokenizer, and SentencePiece with ties, against ids that llama.cpp gave."""

from __future__ import annotations

import pytest

from longbow_quarrel.tokenizer import Tokenizer
from longbow_quarrel.tokenizer.pre_tokenizers import PRE_TOKENIZERS
from tokenizer.vocabularies import byte_level, goldens, sentencepiece

GROUPS = goldens()["byte_level"]


def test_every_pre_tokenizer_has_goldens() -> None:
    assert {name for group in GROUPS for name in group["names"]} == set(PRE_TOKENIZERS)
    assert len(GROUPS) > 15, "the texts should tell the pre-tokenizers apart"


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group["names"][0])
def test_pre_tokenizers_equal_llama_cpp(group: dict[str, list[str]]) -> None:
    data = goldens()
    for name in group["names"]:
        metadata = byte_level(data["merges"], pre=name, bos_token_id=0, eos_token_id=0)
        tokenizer = Tokenizer.from_metadata(metadata)
        for text, ids in zip(data["texts"], group["ids"], strict=True):
            assert tokenizer.encode(text) == ids, (name, text)
            assert tokenizer.decode(tokenizer.encode(text, add_special=False)) == text


def test_sentencepiece_equals_llama_cpp() -> None:
    data = goldens()
    tokenizer = Tokenizer.from_metadata(sentencepiece([tuple(p) for p in data["pieces"]]))
    for text, ids in zip(data["texts"], data["sentencepiece"], strict=True):
        assert tokenizer.encode(text) == ids, text
        assert tokenizer.decode(ids) == text
