"""Every exception this package raises on purpose.

A message is one sentence that says what is wrong and how to mend it; the command line prints it
as it stands and exits with 1 (or with 2 for :class:`UsageError`).
"""

from __future__ import annotations


class QuarrelError(Exception):
    """Base of all errors of this package."""


class UsageError(QuarrelError, ValueError):
    """The caller asked for something that makes no sense: a bad value, an unknown option or key."""


class ModelNotFoundError(QuarrelError):
    """No model answers to this name or path."""


class ModelFormatError(QuarrelError):
    """A model file is damaged, is not GGUF, or holds something that is not supported."""


class DownloadError(QuarrelError):
    """A model could not be fetched: no network, no room on the disk, a wrong checksum."""


class TokenizerError(QuarrelError):
    """The tokenizer in a model file is missing, incomplete or of an unknown kind."""


class ChatTemplateError(QuarrelError):
    """A chat template is missing, does not parse, or refuses the conversation."""


class ContextLengthError(UsageError):
    """A prompt, or prompt plus requested tokens, does not fit in the context."""


class SnapshotError(QuarrelError):
    """A saved KV cache cannot be written or read, is damaged, or is of another model or setting."""


class LogitsBaseError(QuarrelError):
    """A file of predictions cannot be written or read, is damaged, or is of another vocabulary."""


class OutOfMemoryError(QuarrelError):
    """The memory ledger's cap does not allow a request."""


class RolloutError(QuarrelError):
    """A rollout's state cannot be read or written, or there is none."""


class QueueFullError(QuarrelError):
    """Too many requests wait already.

    Attributes:
        retry_after_seconds: when there is likely to be room.
    """

    def __init__(self, message: str, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class EngineStoppedError(QuarrelError):
    """The engine takes no requests any more: it is being shut down."""
