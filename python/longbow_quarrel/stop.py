"""Stop strings: ends a stream of text at the first one, however the text is cut into pieces."""

from __future__ import annotations

from collections.abc import Sequence

from longbow_quarrel.errors import UsageError


class StopMatcher:
    """Finds the stop string that is complete first in text that arrives piece by piece.

    Text that could be the beginning of a stop string is held back until it is decided. Of two
    stop strings that end at the same character the longer one counts. The text given out is the
    same for every way of cutting the input; nothing of the stop string itself is given out.

    Raises :class:`UsageError` for an empty stop string.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        if any(not s for s in stop):
            raise UsageError("stop must hold strings of at least one character.")
        self._stop = tuple(stop)
        self._longest = max((len(s) for s in self._stop), default=0)
        self._held = ""
        self._matched: str | None = None

    @property
    def matched(self) -> str | None:
        """The stop string that ended the text, or None as long as there was none."""
        return self._matched

    def push(self, text: str) -> str:
        """Take the next piece and return what can be given out; "" once a stop string matched."""
        if not self._stop:
            return text
        if self._matched is not None:
            return ""
        text = self._held + text
        found = self._first_match(text)
        if found is not None:
            start, self._matched = found
            self._held = ""
            return text[:start]
        n_held = self._undecided(text)
        self._held = text[len(text) - n_held :]
        return text[: len(text) - n_held]

    def flush(self) -> str:
        """Return what is still held back: the text ended without completing a stop string."""
        held, self._held = self._held, ""
        return held

    def _first_match(self, text: str) -> tuple[int, str] | None:
        """(start, stop string) of the match that ends first, of equal ends the longest."""
        starts = [(text.find(s), s) for s in self._stop]
        ends = [(start + len(s), start, s) for start, s in starts if start >= 0]
        if not ends:
            return None
        _, start, matched = min(ends)
        return start, matched

    def _undecided(self, text: str) -> int:
        """Length of the longest end of ``text`` with which some stop string begins."""
        for n in range(min(len(text), self._longest - 1), 0, -1):
            tail = text[-n:]
            if any(s.startswith(tail) for s in self._stop):
                return n
        return 0
