"""Byte-level BPE: the GPT-2 family.

The ``tokenizers`` library cuts the text; merging is native (cpp/tokenizer/byte_pair.h), since the
library's tables take five times the memory and ten times as long to build.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from longbow_quarrel import _core
from longbow_quarrel.errors import TokenizerError, UsageError
from longbow_quarrel.tokenizer.metadata import Metadata, read_strings
from longbow_quarrel.tokenizer.pre_tokenizers import PreTokenizer
from longbow_quarrel.tokenizer.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tokenizers.pre_tokenizers import PreTokenizer as Splitter


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes: character to byte.

    Printable Latin-1 characters stand for themselves; the other bytes, in order, are moved to the
    code points from 256 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in set(printable)]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update((chr(256 + i), byte) for i, byte in enumerate(hidden))
    return alphabet


class ByteLevelBPE:
    """Merges byte pairs by rank inside the pieces that the pre-tokenizer cuts.

    Source of the technique: Sennrich et al. 2016 (arXiv:1508.07909), on bytes as in GPT-2.
    """

    def __init__(
        self, vocabulary: Vocabulary, metadata: Metadata, pre_tokenizer: PreTokenizer
    ) -> None:
        """Builds the merge tables.

        Raises:
            TokenizerError: The merges are missing, malformed or do not fit the vocabulary.
        """
        self._alphabet = _byte_alphabet()
        self._patterns = pre_tokenizer.patterns
        merges = read_strings(metadata, "tokenizer.ggml.merges")
        try:
            self._encoder = _core.BytePairEncoder(
                vocabulary.tokens, merges, pre_tokenizer.ignore_merges
            )
        except UsageError as error:
            raise TokenizerError(f"{error}; convert the model again.") from error

    @cached_property
    def _splitter(self) -> Splitter:
        """Made with the first text: who brings token ids need not wait for the library."""
        from tokenizers import Regex
        from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

        splits = [Split(Regex(pattern), "isolated") for pattern in self._patterns]
        return Sequence([*splits, ByteLevel(add_prefix_space=False, use_regex=False)])

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, which holds no special tokens.

        A few vocabularies lack tokens for bytes that their training text never held (control
        characters, mostly); such bytes are left out, as llama.cpp leaves them out.
        """
        return self._encoder.encode([piece for piece, _ in self._splitter.pre_tokenize_str(text)])

    def piece_bytes(self, piece: str) -> bytes:
        """The bytes that an ordinary piece stands for.

        A character outside the byte alphabet can only come from a token that was added by hand;
        it stands for itself.
        """
        alphabet = self._alphabet
        return b"".join(
            bytes((alphabet[char],))
            if char in alphabet
            else char.encode("utf-8", "surrogateescape")
            for char in piece
        )
