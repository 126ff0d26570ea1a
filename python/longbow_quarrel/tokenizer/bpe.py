"""Byte-level BPE: the GPT-2 family, on the ``tokenizers`` library."""

from __future__ import annotations

from tokenizers import Regex
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

from longbow_quarrel.errors import TokenizerError
from longbow_quarrel.tokenizer.metadata import Metadata, read_strings
from longbow_quarrel.tokenizer.pre_tokenizers import PreTokenizer
from longbow_quarrel.tokenizer.vocabulary import Vocabulary


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
        merges = _read_merges(metadata)
        try:
            model = BPE(vocabulary.ids, merges, ignore_merges=pre_tokenizer.ignore_merges)
        except Exception as error:  # the library raises a bare Exception for a stray merge
            raise TokenizerError(
                f"tokenizer.ggml.merges does not fit the vocabulary ({error}); "
                "convert the model again."
            ) from error
        self._backend = Backend(model)
        splits = [Split(Regex(pattern), "isolated") for pattern in pre_tokenizer.patterns]
        self._backend.pre_tokenizer = Sequence(
            [*splits, ByteLevel(add_prefix_space=False, use_regex=False)]
        )

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, which holds no special tokens.

        A few vocabularies lack tokens for bytes that their training text never held (control
        characters, mostly); such bytes are left out, as llama.cpp leaves them out.
        """
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

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


def _read_merges(metadata: Metadata) -> list[tuple[str, str]]:
    """Pairs in order of rank; the first of two equal pairs counts."""
    merges: dict[tuple[str, str], None] = {}
    for rank, line in enumerate(read_strings(metadata, "tokenizer.ggml.merges")):
        # A piece is never empty, so a space in front belongs to the left piece.
        cut = line.find(" ", 1)
        if cut < 0 or cut + 1 == len(line):
            raise TokenizerError(
                f"tokenizer.ggml.merges[{rank}] is {line!r}, not two pieces with a space between; "
                "convert the model again."
            )
        merges.setdefault((line[:cut], line[cut + 1 :]))
    return list(merges)
