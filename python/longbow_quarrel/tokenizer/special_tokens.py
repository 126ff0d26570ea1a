"""Finds special tokens in text before the rest is tokenized."""

from __future__ import annotations

from collections.abc import Iterable

from longbow_quarrel.tokenizer.vocabulary import TokenType, Vocabulary

# What C's isspace() holds for whitespace; stripping beside a token knows no other.
_ASCII_SPACE = " \t\n\v\f\r"
_PREFIX_LENGTH = 2

Fragment = int | str  # a token id, or text that is still to be tokenized


class SpecialTokenScanner:
    """Cuts text at special tokens.

    Longer tokens are searched first through the whole text, whatever stands further left: this
    is llama.cpp's order, and it decides overlaps. User-defined tokens are always found, control
    and unknown tokens only on request.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        strip_left: Iterable[int] = (),
        strip_right: Iterable[int] = (),
    ) -> None:
        always = vocabulary.ids_of_types(TokenType.USER_DEFINED)
        on_request = vocabulary.ids_of_types(TokenType.CONTROL, TokenType.UNKNOWN)
        self._always = _group_by_prefix(vocabulary, always)
        self._all = _group_by_prefix(vocabulary, [*always, *on_request])
        self._strip_left = frozenset(strip_left)
        self._strip_right = frozenset(strip_right)

    def split(self, text: str, *, parse_special: bool) -> list[Fragment]:
        """Cuts `text` into token ids and non-empty pieces of plain text, in order."""
        groups = self._all if parse_special else self._always
        # A vocabulary may hold thousands of such tokens and a text uses a handful: one search
        # per common prefix rules nearly all of them out.
        present = [
            (piece, token_id)
            for prefix, group in groups.items()
            if prefix in text
            for piece, token_id in group
            if piece in text
        ]
        present.sort(key=lambda entry: (-len(entry[0].encode()), entry[1]))
        fragments: list[Fragment] = [text] if text else []
        for piece, token_id in present:
            fragments = self._split_at(fragments, piece, token_id)
        return fragments

    def _split_at(self, fragments: list[Fragment], piece: str, token_id: int) -> list[Fragment]:
        result: list[Fragment] = []
        for fragment in fragments:
            if isinstance(fragment, int) or piece not in fragment:
                result.append(fragment)
                continue
            rest = fragment
            while True:
                text, found, rest = rest.partition(piece)
                if found and token_id in self._strip_left:
                    text = text.rstrip(_ASCII_SPACE)
                if text:
                    result.append(text)
                if not found:
                    break
                result.append(token_id)
                if token_id in self._strip_right:
                    rest = rest.lstrip(_ASCII_SPACE)
        return result


def _group_by_prefix(vocabulary: Vocabulary, ids: list[int]) -> dict[str, list[tuple[str, int]]]:
    groups: dict[str, list[tuple[str, int]]] = {}
    for token_id in ids:
        piece = vocabulary.tokens.piece(token_id)
        groups.setdefault(piece[:_PREFIX_LENGTH], []).append((piece, token_id))
    return groups
