"""SentencePiece-style BPE: the LLaMA 2, Mistral and Gemma family.

The ``tokenizers`` library is not used here, for two reasons. Its BPE breaks ties by pair, whereas
in this family two different pairs that make the same token have the same score and the leftmost
goes first (runs of spaces depend on it); and it needs the merges spelled out, which takes seconds
for Gemma's 262,144 tokens, while scores can be used as they lie in the file.
"""

from __future__ import annotations

from longbow_quarrel import _core
from longbow_quarrel.errors import TokenizerError, UsageError
from longbow_quarrel.tokenizer.vocabulary import Vocabulary

SPACE = "▁"


class SentencePieceBPE:
    """The native encoder (cpp/tokenizer/sentencepiece.h) of a vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Prepares the search.

        Raises:
            TokenizerError: The file holds no scores, or some are NaN.
        """
        if vocabulary.scores is None:
            raise TokenizerError(
                "tokenizer.ggml.scores is missing from the model file; convert the model again."
            )
        try:
            self._encoder = _core.SentencePiece(
                vocabulary.tokens, vocabulary.scores, vocabulary.roles.get("unk")
            )
        except UsageError as error:
            raise TokenizerError(
                "tokenizer.ggml.scores holds values that are no numbers; convert the model again."
            ) from error

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, which holds no special tokens.

        Raises:
            UsageError: The vocabulary has neither a piece nor byte tokens for a character.
        """
        return self._encoder.encode(text)

    def piece_bytes(self, piece: str) -> bytes:
        """The bytes that an ordinary piece stands for."""
        return piece.replace(SPACE, " ").encode("utf-8", "surrogateescape")
