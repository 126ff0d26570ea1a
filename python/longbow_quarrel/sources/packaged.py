"""Where a model inside wheels lies; :mod:`longbow_quarrel.sources.pypi` fetches it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WheelMember:
    """A file inside a wheel. ``size_bytes`` may be None only for the last part of a model."""

    project: str
    version: str | None
    member: str
    size_bytes: int | None = None


@dataclass(frozen=True)
class PackagedModel:
    """A model made of the members of one or more wheels; ``sha256`` is of the whole, in hex."""

    parts: tuple[WheelMember, ...]
    sha256: str | None = None

    @property
    def size_bytes(self) -> int | None:
        """Bytes of the whole model, None where a part's size is unknown."""
        sizes = [part.size_bytes for part in self.parts]
        return sum(size for size in sizes if size is not None) if None not in sizes else None
