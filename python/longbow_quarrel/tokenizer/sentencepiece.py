"""SentencePiece-style BPE: the LLaMA 2, Mistral and Gemma family.

The ``tokenizers`` library is not used here, for two reasons. Its BPE breaks ties by pair, whereas
in this family two different pairs that make the same token have the same score and the leftmost
goes first (runs of spaces depend on it); and it needs the merges spelled out, which takes seconds
for Gemma's 262,144 tokens, while scores can be used as they lie in the file.
"""

from __future__ import annotations

import heapq
import re

import numpy as np

from longbow_quarrel.errors import TokenizerError, UsageError
from longbow_quarrel.tokenizer.vocabulary import Vocabulary

SPACE = "▁"

_CACHE_WORDS = 1 << 16  # words remembered with their tokens, a few MB
_CACHE_WORD_LENGTH = 64  # characters; longer words hardly ever come twice


class SentencePieceBPE:
    """Merges neighbours while they make a token: best score first, leftmost among equals.

    What is no token in the end falls back to byte tokens. Source of the technique: Kudo and
    Richardson 2018 (arXiv:1808.06226), in the greedy form that llama.cpp gives it.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Prepares the search.

        Raises:
            TokenizerError: The file holds no scores, or some are NaN.
        """
        if vocabulary.scores is None:
            raise TokenizerError(
                "tokenizer.ggml.scores is missing from the model file; convert the model again."
            )
        if np.isnan(vocabulary.scores).any():
            raise TokenizerError(
                "tokenizer.ggml.scores holds values that are no numbers; convert the model again."
            )
        self._ids = vocabulary.ids
        self._unknown = vocabulary.roles.get("unk")
        # Negated, because heapq pops the smallest.
        self._costs: list[float] = (-vocabulary.scores).tolist()
        self._boundary = _word_boundary(vocabulary.pieces)
        self._cache: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, which holds no special tokens.

        Raises:
            UsageError: The vocabulary has neither a piece nor byte tokens for a character.
        """
        ids: list[int] = []
        cache = self._cache
        for word in self._boundary.split(text.replace(" ", SPACE)):
            known = cache.get(word)
            if known is None:
                known = self._encode_word(word)
                if len(word) <= _CACHE_WORD_LENGTH:
                    if len(cache) >= _CACHE_WORDS:
                        cache.clear()
                    cache[word] = known
            ids += known
        return ids

    def piece_bytes(self, piece: str) -> bytes:
        """The bytes that an ordinary piece stands for."""
        return piece.replace(SPACE, " ").encode("utf-8", "surrogateescape")

    def _encode_word(self, word: str) -> list[int]:
        ids: list[int] = []
        for symbol in self._merge(word):
            token_id = self._ids.get(symbol)
            if token_id is None:
                ids += self._byte_tokens(symbol)
            else:
                ids.append(token_id)
        return ids

    def _merge(self, word: str) -> list[str]:
        """Merges until no two neighbours make a token.

        `symbols[i]` is the symbol that starts at character i, or empty once it was merged into
        the one before it. A queue entry whose symbols have changed since no longer adds up to
        its length and is skipped.
        """
        ids, costs = self._ids, self._costs
        symbols = list(word)
        end = len(symbols)
        before = list(range(-1, end - 1))
        after = list(range(1, end + 1))
        queue: list[tuple[float, int, int, int]] = []
        for right in range(1, end):
            token_id = ids.get(symbols[right - 1] + symbols[right])
            if token_id is not None:
                queue.append((costs[token_id], right - 1, right, 2))
        heapq.heapify(queue)
        while queue:
            _, left, right, length = heapq.heappop(queue)
            head, tail = symbols[left], symbols[right]
            if not head or not tail or len(head) + len(tail) != length:
                continue
            merged = symbols[left] = head + tail
            symbols[right] = ""
            following = after[left] = after[right]
            if following < end:
                before[following] = left
                token_id = ids.get(merged + symbols[following])
                if token_id is not None:
                    size = len(merged) + len(symbols[following])
                    heapq.heappush(queue, (costs[token_id], left, following, size))
            previous = before[left]
            if previous >= 0:
                token_id = ids.get(symbols[previous] + merged)
                if token_id is not None:
                    size = len(symbols[previous]) + len(merged)
                    heapq.heappush(queue, (costs[token_id], previous, left, size))
        return [symbol for symbol in symbols if symbol]

    def _byte_tokens(self, symbol: str) -> list[int]:
        found: list[int] = []
        for byte in symbol.encode():
            token_id = self._ids.get(f"<0x{byte:02X}>", self._unknown)
            if token_id is None:
                raise UsageError(
                    f"This model's vocabulary has no token for {symbol!r} and none for its bytes; "
                    "remove the character from the text."
                )
            found.append(token_id)
        return found


def _word_boundary(pieces: list[str]) -> re.Pattern[str]:
    """Matches the empty string wherever no merge can ever reach across.

    Merges only make tokens, so between a character and a following space mark that stand side
    by side in no token there is never a merge, and both sides can be tokenized apart (and
    remembered). Nearly every character is of this kind.
    """
    glued = {SPACE}
    glued.update(piece[i - 1] for piece in pieces for i in _inner_marks(piece))
    return re.compile(f"(?={SPACE})(?<=[^{''.join(map(re.escape, sorted(glued)))}])")


def _inner_marks(piece: str) -> list[int]:
    return [i for i, char in enumerate(piece) if char == SPACE and i > 0]
