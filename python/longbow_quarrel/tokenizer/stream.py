"""Token ids to text, one token at a time."""

from __future__ import annotations

import codecs
from collections.abc import Callable


class StreamDecoder:
    """Turns tokens into text as they arrive, never cutting a UTF-8 character.

    Bytes that may still become a character are held back until the tokens that complete it have
    come; bytes that never can are shown as U+FFFD. What all calls of :meth:`push` and one final
    :meth:`finish` return is, joined, the text that ``Tokenizer.decode`` gives for the same ids.
    """

    def __init__(self, text_bytes: Callable[[int], bytes], *, strip_space: bool) -> None:
        """Starts an empty text; made by ``Tokenizer.stream_decoder``.

        Args:
            text_bytes: Bytes that a token adds to the text; raises UsageError for unknown ids.
            strip_space: Drop one space at the very start of the text.
        """
        self._text_bytes = text_bytes
        self._strip_space = strip_space
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        """Adds one token and returns the text that is complete by now and was not yet returned.

        Raises:
            UsageError: `token_id` is not in the vocabulary.
        """
        data = self._text_bytes(token_id)
        if self._strip_space and data:
            data = data.removeprefix(b" ")
            self._strip_space = False
        return self._utf8.decode(data)

    def finish(self) -> str:
        """Returns what is left: U+FFFD for a character that was never completed, else nothing."""
        return self._utf8.decode(b"", final=True)
