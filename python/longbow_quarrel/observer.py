"""What the engine tells whoever watches it."""

from __future__ import annotations

from longbow_quarrel.request import Request


class EngineObserver:
    """Hears of what happens, in the engine's thread; this one ignores it.

    Methods must be quick and must not raise: they run between two steps.
    """

    def started(self, request: Request) -> None:
        """A request has left the queue for the first time."""

    def began(self, part: str) -> None:
        """A step turns to a part of it: ``schedule``, ``deliver`` (news of the step before),
        ``compute`` (the native step), ``sample`` (tokens and texts); ``idle`` ends it."""

    def stepped(self, n_tokens: int, phase: str) -> None:
        """A step was computed; ``phase`` is ``prefill``, ``decode`` or ``mixed``."""

    def sampled(self, request: Request, gap_seconds: float | None) -> None:
        """A request got a token, this long after the one before; None for its first."""

    def preempted(self, request: Request, reason: str) -> None:
        """A running request had to give its blocks back, and will compute its tokens again;
        ``reason`` is what the cache said to the one that found no room."""

    def finished(self, request: Request) -> None:
        """A request has ended; ``finish_reason`` says how."""

    def refused(self, reason: str) -> None:
        """A request was not taken, or will never fit."""
