"""The tokenizer of a model, as its GGUF file describes it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from numbers import Integral
from typing import Protocol

from longbow_quarrel.errors import TokenizerError, UsageError
from longbow_quarrel.tokenizer.bpe import ByteLevelBPE
from longbow_quarrel.tokenizer.metadata import Metadata, read_bool, read_str
from longbow_quarrel.tokenizer.pre_tokenizers import find_pre_tokenizer
from longbow_quarrel.tokenizer.sentencepiece import SentencePieceBPE
from longbow_quarrel.tokenizer.special_tokens import SpecialTokenScanner
from longbow_quarrel.tokenizer.stream import StreamDecoder
from longbow_quarrel.tokenizer.vocabulary import TokenType, Vocabulary

_SUPPORTED_MODELS = ("gpt2", "llama")
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_HIDDEN_TYPES = (TokenType.CONTROL, TokenType.UNKNOWN)
_TEXT_TYPES = (*_HIDDEN_TYPES, TokenType.USER_DEFINED)


class _TextModel(Protocol):
    def encode(self, text: str) -> list[int]: ...

    def piece_bytes(self, piece: str) -> bytes: ...


class Tokenizer:
    """Text to token ids and back.

    Encoding gives the ids that llama.cpp gives for the same file. Decoding is lossless: unlike
    llama.cpp's ``detokenize`` it never tidies up spaces before punctuation.

    Attributes:
        model: ``"gpt2"`` (byte-level BPE) or ``"llama"`` (SentencePiece-style).
        pre: Name of the pre-tokenizer, None for SentencePiece-style models without one.
        vocab_size: Number of tokens.
        add_bos: Whether ``encode`` puts BOS in front.
        add_eos: Whether ``encode`` puts EOS at the end.
        add_space_prefix: Whether text at the start and after special tokens gets a space in
            front (SentencePiece-style models only).
        bos_id: Beginning of sequence, or None; likewise ``eos_id``, ``eot_id`` (end of turn),
            ``eom_id`` (end of message), ``unk_id`` and ``pad_id``.
        eog_ids: Every token that ends a generation.
    """

    def __init__(self, vocabulary: Vocabulary, metadata: Metadata) -> None:
        """Use :meth:`from_metadata`."""
        self._vocabulary = vocabulary
        self.model = vocabulary.model
        self.pre = read_str(metadata, "tokenizer.ggml.pre")
        self.vocab_size = len(vocabulary)
        sentencepiece = self.model == "llama"
        strip_left: list[int] = []
        if sentencepiece:
            self._text_model: _TextModel = SentencePieceBPE(vocabulary)
            vocabulary.scores = None  # the model has them
        else:
            pre = find_pre_tokenizer(self.pre)
            self._text_model = ByteLevelBPE(vocabulary, metadata, pre)
            strip_left = [i for t in pre.strip_left if (i := vocabulary.find(t)) is not None]
        self._scanner = SpecialTokenScanner(
            vocabulary, strip_left=strip_left, strip_right=_strip_right(vocabulary, metadata)
        )
        add_bos = sentencepiece or pre.add_bos
        self.add_bos = read_bool(metadata, "tokenizer.ggml.add_bos_token", add_bos)
        self.add_eos = read_bool(metadata, "tokenizer.ggml.add_eos_token", False)
        self.add_space_prefix = sentencepiece and read_bool(
            metadata, "tokenizer.ggml.add_space_prefix", True
        )
        roles = vocabulary.roles
        self.bos_id = roles.get("bos")
        self.eos_id = roles.get("eos")
        self.eot_id = roles.get("eot")
        self.eom_id = roles.get("eom")
        self.unk_id = roles.get("unk")
        self.pad_id = roles.get("pad")
        self.eog_ids = vocabulary.eog_ids
        self._prefix = _wanted(self.add_bos, self.bos_id, "bos")
        self._suffix = _wanted(self.add_eos, self.eos_id, "eos")
        self._check_byte_pieces()
        self._hidden_ids = frozenset(vocabulary.ids_of_types(*_HIDDEN_TYPES))
        self._bytes: dict[int, bytes] = {}

    @classmethod
    def from_metadata(cls, metadata: Metadata) -> Tokenizer:
        """Builds the tokenizer that a GGUF file describes.

        Args:
            metadata: The file's keys; those that begin with ``tokenizer.`` are read, and
                ``general.name`` where it is there.

        Raises:
            TokenizerError: The tokenizer is missing, incomplete, contradictory or of an unknown
                kind.
        """
        model = read_str(metadata, "tokenizer.ggml.model")
        if model is not None and model not in _SUPPORTED_MODELS:
            raise TokenizerError(
                f"Tokenizers of kind {model!r} are not supported; use a model with one of: "
                f"{', '.join(_SUPPORTED_MODELS)}."
            )
        return cls(Vocabulary.from_metadata(metadata), metadata)

    def encode(
        self, text: str, *, add_special: bool = True, parse_special: bool = False
    ) -> list[int]:
        """Token ids of `text`.

        Args:
            text: Any text; may be empty and may hold NUL.
            add_special: Add BOS and EOS where the model asks for them.
            parse_special: Read special tokens written out in `text` as such. Leave this off for
                text from strangers. User-defined tokens are read in either case.

        Returns:
            The ids. A byte-level vocabulary without a token for some byte drops that byte.

        Raises:
            UsageError: `text` is no valid Unicode text, or a SentencePiece-style vocabulary has
                no token for a character, not even for its bytes.
        """
        _check_text(text)
        ids = list(self._prefix) if add_special else []
        prefix = " " if self.add_space_prefix else ""
        lead = prefix
        for fragment in self._scanner.split(text, parse_special=parse_special):
            if isinstance(fragment, int):
                ids.append(fragment)
                lead = prefix
            else:
                ids += self._text_model.encode(lead + fragment)
                lead = ""
        if add_special:
            ids += self._suffix
        return ids

    def decode(
        self, ids: Iterable[int], *, skip_special: bool = True, continuation: bool = False
    ) -> str:
        """Text of `ids`; bytes that are no UTF-8 become U+FFFD.

        Args:
            ids: Token ids.
            skip_special: Leave out control tokens instead of writing their names.
            continuation: `ids` continue an earlier text, as generated tokens do. Otherwise the
                space that ``encode`` put before the first word is taken away again.

        Raises:
            UsageError: An id is not in the vocabulary.
        """
        data = b"".join(self._text_bytes(i, skip_special) for i in ids)
        if self.add_space_prefix and not continuation:
            data = data.removeprefix(b" ")
        return data.decode("utf-8", "replace")

    def stream_decoder(
        self, skip_special: bool = True, *, continuation: bool = False
    ) -> StreamDecoder:
        """A decoder that takes one token at a time; arguments as for :meth:`decode`."""
        return StreamDecoder(
            lambda token_id: self._text_bytes(token_id, skip_special),
            strip_space=self.add_space_prefix and not continuation,
        )

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for; a special token's name; nothing if unused.

        Raises:
            UsageError: `token_id` is not in the vocabulary.
        """
        return self._text_bytes(token_id, skip_special=False)

    def piece(self, token_id: int) -> str:
        """A token's piece as the model file writes it.

        Raises:
            UsageError: `token_id` is not in the vocabulary.
        """
        self._check_id(token_id)
        return self._vocabulary.tokens.piece(token_id)

    def id_of(self, piece: str) -> int | None:
        """The id of a piece written as in the model file (``"Ġthe"``, ``"▁the"``), or None."""
        return self._vocabulary.find(piece)

    def _text_bytes(self, token_id: int, skip_special: bool) -> bytes:
        self._check_id(token_id)
        if skip_special and token_id in self._hidden_ids:
            return b""
        data = self._bytes.get(token_id)
        if data is None:
            data = self._bytes[token_id] = self._make_bytes(token_id)
        return data

    def _make_bytes(self, token_id: int) -> bytes:
        piece = self._vocabulary.tokens.piece(token_id)
        kind = self._vocabulary.tokens.type(token_id)
        if kind in _TEXT_TYPES:
            return piece.encode("utf-8", "surrogateescape")
        if kind == TokenType.BYTE:
            return bytes((int(piece[3:5], 16),))
        if kind == TokenType.NORMAL:
            return self._text_model.piece_bytes(piece)
        return b""

    def _check_id(self, token_id: int) -> None:
        if not isinstance(token_id, Integral) or not 0 <= token_id < self.vocab_size:
            raise UsageError(
                f"{token_id!r} is no token of this model; ids go from 0 to {self.vocab_size - 1}."
            )

    def _check_byte_pieces(self) -> None:
        for token_id in self._vocabulary.ids_of_types(TokenType.BYTE):
            piece = self._vocabulary.tokens.piece(token_id)
            if not _BYTE_PIECE.fullmatch(piece):
                raise TokenizerError(
                    f"Token {token_id} is a byte token but is written {piece!r} instead of like "
                    "'<0x0A>'; convert the model again."
                )


def _wanted(wanted: bool, token_id: int | None, role: str) -> list[int]:
    if not wanted:
        return []
    if token_id is None:
        raise TokenizerError(
            f"The tokenizer adds a {role.upper()} token but tokenizer.ggml.{role}_token_id is "
            "missing; convert the model again."
        )
    return [token_id]


def _strip_right(vocabulary: Vocabulary, metadata: Metadata) -> set[int]:
    """Special tokens that swallow the whitespace after them.

    GGUF does not carry this attribute. As in llama.cpp the one family that needs it is known by
    its name.
    """
    name = (read_str(metadata, "general.name") or "").lower()
    if "phi-3" not in name and "phi3" not in name:
        return set()
    ids = set(vocabulary.ids_of_types(*_TEXT_TYPES))
    ids |= {i for t in ("</s>",) if (i := vocabulary.find(t)) is not None}
    return ids - {vocabulary.find(t) for t in ("<unk>", "<s>", "<|endoftext|>")}


def _check_text(text: str) -> None:
    if not isinstance(text, str):
        raise UsageError(f"Text to tokenize should be a string, not {type(text).__name__}.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"The text holds half a character (a lone surrogate) at position {error.start}; "
            "remove it or decode the text again."
        ) from error
