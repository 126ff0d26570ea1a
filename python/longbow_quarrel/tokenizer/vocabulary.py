"""The vocabulary of a model: pieces, their types and scores, and the tokens with a special role.

Roles that the file does not name are found by well-known token texts, as llama.cpp finds them;
generation has to stop at the same tokens there and here.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum

from longbow_quarrel import _core
from longbow_quarrel.errors import TokenizerError
from longbow_quarrel.tokenizer.metadata import (
    Metadata,
    read_numbers,
    read_str,
    read_strings,
    read_token_id,
)


class TokenType(IntEnum):
    """Values of ``tokenizer.ggml.token_type``."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


# Role -> metadata keys; where several are present the last one counts (the later ones are older
# spellings). "seperator" is how the format spells it.
_ROLE_KEYS: dict[str, tuple[str, ...]] = {
    "bos": ("bos_token_id",),
    "eos": ("eos_token_id",),
    "eot": ("eot_token_id",),
    "eom": ("eom_token_id",),
    "unk": ("unknown_token_id",),
    "sep": ("seperator_token_id",),
    "pad": ("padding_token_id",),
    "mask": ("mask_token_id",),
    "fim_pre": ("fim_pre_token_id", "prefix_token_id"),
    "fim_suf": ("fim_suf_token_id", "suffix_token_id"),
    "fim_mid": ("fim_mid_token_id", "middle_token_id"),
    "fim_pad": ("fim_pad_token_id",),
    "fim_rep": ("fim_rep_token_id",),
    "fim_sep": ("fim_sep_token_id",),
}

# LLaMA's original vocabulary fixes these three; byte-level vocabularies have no such custom.
_SENTENCEPIECE_DEFAULTS = {"bos": 1, "eos": 2, "unk": 0}

# Role -> texts that mean it, most telling first (a file may hold several).
_ROLE_TEXTS: dict[str, tuple[str, ...]] = {
    "eot": (
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "<｜end▁of▁sentence｜>",
        "<end_of_utterance>",
    ),
    "eom": ("<|eom_id|>",),
    "fim_pre": (
        "<|fim_prefix|>",
        "<fim-prefix>",
        "<fim_prefix>",
        "<｜fim▁begin｜>",
        "<PRE>",
        "▁<PRE>",
        "<|code_prefix|>",
        "<|prefix|>",
    ),
    "fim_suf": (
        "<|fim_suffix|>",
        "<fim-suffix>",
        "<fim_suffix>",
        "<｜fim▁hole｜>",
        "<SUF>",
        "▁<SUF>",
        "<|code_suffix|>",
        "<|suffix|>",
    ),
    "fim_mid": (
        "<|fim_middle|>",
        "<fim-middle>",
        "<fim_middle>",
        "<｜fim▁end｜>",
        "<MID>",
        "▁<MID>",
        "<|code_middle|>",
        "<|middle|>",
    ),
    "fim_pad": ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    "fim_rep": ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    "fim_sep": ("<|file_sep|>",),
}

_END_OF_GENERATION_TEXTS = (
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
)
_END_OF_GENERATION_ROLES = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")

# Markers inside a harmony-style answer: part of the output, never hidden.
_HARMONY_MARKERS = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>")


@dataclass
class Vocabulary:
    """Pieces and roles of a tokenizer.

    Attributes:
        model: ``tokenizer.ggml.model``: ``"gpt2"`` (byte-level BPE) or ``"llama"``
            (SentencePiece-style).
        tokens: Pieces as the file writes them and their types, values of :class:`TokenType`.
        scores: [n_tokens] float32, or None when the file has none.
        roles: Role ("bos", "eos", "eot", ...) to token id; absent roles have no entry.
        eog_ids: Every token that ends a generation.
    """

    model: str
    tokens: _core.Vocabulary
    scores: array[float] | None
    roles: dict[str, int] = field(default_factory=dict)
    eog_ids: frozenset[int] = frozenset()

    @classmethod
    def from_metadata(cls, metadata: Metadata) -> Vocabulary:
        """Reads and checks the vocabulary.

        Raises:
            TokenizerError: A key is missing, has the wrong type or contradicts another.
        """
        model = read_str(metadata, "tokenizer.ggml.model")
        if model is None:
            raise TokenizerError(
                "tokenizer.ggml.model is missing from the model file; use a model that was "
                "converted together with its tokenizer."
            )
        pieces = read_strings(metadata, "tokenizer.ggml.tokens")
        count = len(pieces)
        if count == 0:
            raise TokenizerError("tokenizer.ggml.tokens is empty; convert the model again.")
        types = read_numbers(metadata, "tokenizer.ggml.token_type", count, "i")
        if types is None:
            types = array("i", [TokenType.NORMAL]) * count
        tokens = _core.Vocabulary(pieces, types)
        if tokens.duplicate is not None:
            raise TokenizerError(
                f"tokenizer.ggml.tokens holds {tokens.piece(tokens.duplicate)!r} twice; "
                "convert the model again."
            )
        vocabulary = cls(
            model=model,
            tokens=tokens,
            scores=read_numbers(metadata, "tokenizer.ggml.scores", count, "f"),
        )
        vocabulary._read_roles(metadata)
        vocabulary._find_roles_by_text()
        vocabulary._collect_end_of_generation()
        return vocabulary

    def __len__(self) -> int:
        return len(self.tokens)

    def find(self, piece: str) -> int | None:
        """The id of a piece, or None."""
        return self.tokens.find(piece)

    def ids_of_types(self, *types: TokenType) -> list[int]:
        """Ids of all tokens of the given types, ascending."""
        return self.tokens.ids_of_types([int(t) for t in types])

    def _read_roles(self, metadata: Metadata) -> None:
        if self.model == "llama":
            self.roles = {r: i for r, i in _SENTENCEPIECE_DEFAULTS.items() if i < len(self)}
        for role, names in _ROLE_KEYS.items():
            for name in names:
                token_id = read_token_id(metadata, f"tokenizer.ggml.{name}", len(self))
                if token_id is not None:
                    self.roles[role] = token_id

    def _find_roles_by_text(self) -> None:
        for role, texts in _ROLE_TEXTS.items():
            if role in self.roles:
                continue
            for text in texts:
                token_id = self.find(text)
                if token_id is not None:
                    self.roles[role] = token_id
                    self.tokens.set_type(token_id, TokenType.CONTROL)
                    break

    def _collect_end_of_generation(self) -> None:
        by_text = self._present(_END_OF_GENERATION_TEXTS)
        for token_id in by_text.values():
            self.tokens.set_type(token_id, TokenType.CONTROL)
        for token_id in self._present(_HARMONY_MARKERS).values():
            self.tokens.set_type(token_id, TokenType.USER_DEFINED)
        found = set(by_text.values())
        found.update(self.roles[r] for r in _END_OF_GENERATION_ROLES if r in self.roles)
        self._withdraw(found, by_text)
        self.eog_ids = frozenset(found)

    def _withdraw(self, found: set[int], by_text: dict[str, int]) -> None:
        """Takes back texts that mean something else beside their company.

        Harmony-style models close every message with ``<|end|>`` and the answer with another
        token; Gemma 4 and PLaMo use ``</s>`` as plain text.
        """
        calls = "<|call|>" in by_text or "<|calls|>" in by_text
        if "<|end|>" in by_text and calls and ("<|return|>" in by_text or "<|flush|>" in by_text):
            found.discard(by_text["<|end|>"])
            self.tokens.set_type(by_text["<|end|>"], TokenType.USER_DEFINED)
        plamo_eos = self.find("<|plamo:eos|>")
        if "</s>" in by_text and ("<|tool_response>" in by_text or plamo_eos in found):
            found.discard(by_text["</s>"])
            self.tokens.set_type(by_text["</s>"], TokenType.NORMAL)

    def _present(self, texts: Iterable[str]) -> dict[str, int]:
        """Those of `texts` that are tokens, and their ids."""
        found = {text: self.find(text) for text in texts}
        return {text: token_id for text, token_id in found.items() if token_id is not None}
