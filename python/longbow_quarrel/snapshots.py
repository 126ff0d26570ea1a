"""Saving and restoring K and V: one text, or the whole prefix cache, in files and in memory.

A file says what its K and V depend on (the model's content, element types, block size, what
attention may see, how the device lays blocks out); one that differs in any of it is refused by
name, and so is a damaged one. docs/kv-cache.md describes the format.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from longbow_quarrel import _core
from longbow_quarrel.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from longbow_quarrel.model_runner import ModelRunner

_WHOLE_FILE_BYTES = 256 * 1024**2  # hashed as a whole up to here: 0.1 s
_N_SAMPLES = 16  # of each tensor of a larger file
_SAMPLE_BYTES = 4096


@dataclass(frozen=True)
class SavedSequence:
    """K and V of one text, outside the cache; the ledger counts them as snapshots.

    ``LLM.generate`` and ``LLM.stream`` take one as ``resume``: a prompt that starts like it starts
    from it. Usable any number of times, with the model that made it.
    """

    snapshot: _core.SequenceSnapshot
    cache: _core.KVCache
    store: _core.KVStorage

    @property
    def token_ids(self) -> list[int]:
        """The text."""
        return [int(i) for i in self.snapshot.tokens]

    @property
    def n_bytes(self) -> int:
        """Memory of its K and V."""
        return self.snapshot.n_bytes

    def open(
        self, prompt: memoryview | NDArray[np.int32], max_tokens: int
    ) -> _core.PrefixMatch | None:
        """A sequence with what ``prompt`` and the saved text have in common, as
        ``KVCache.match_prefix`` opens one: at least one token is left to compute.

        None where they have nothing in common, or the cache has no room.
        """
        import numpy as np

        tokens = self.snapshot.tokens
        limit = min(len(tokens), len(prompt) - 1, max_tokens)
        differs = np.flatnonzero(tokens[:limit] != np.asarray(prompt)[:limit])
        n_common = int(differs[0]) if len(differs) else limit
        if n_common < 1:
            return None
        restored = self.snapshot.restore(self.cache, self.store, max(max_tokens, len(tokens)))
        if not restored.reservation:
            return None
        n_held = self.cache.trim(restored.sequence, n_common)
        if n_held < n_common:
            reason = "window_lost"
        elif n_common == len(prompt) - 1:
            reason = "none"
        else:
            reason = "diverged" if n_common < len(tokens) else "shorter"
        return _core.PrefixMatch(restored.sequence, n_held, reason)


class Snapshots:
    """What a runner's cache can save and take back. Between two steps, in the engine's thread."""

    def __init__(self, runner: ModelRunner) -> None:
        self._runner = runner

    def save_prefix_cache(self, path: str | Path) -> _core.SnapshotFigures:
        """Write all that later prompts could reuse; the file appears whole or not at all.

        Raises:
            SnapshotError: it cannot be written; what was there before stays.
            UsageError: the strategy cannot save, or prefix caching is off.
        """
        return _core.save_prefix_cache(str(path), *self._reusable(), self.identity)

    def load_prefix_cache(self, path: str | Path) -> _core.SnapshotFigures:
        """Take saved texts into the prefix cache, as many as fit, last used first.

        What nobody holds gives way to them. Figures tell what was taken and not there before.

        Raises:
            SnapshotError: the file is damaged, or was saved with another model, type, block size,
                mask, device or version; nothing is taken then.
            UsageError: the strategy cannot restore, or prefix caching is off.
        """
        return _core.load_prefix_cache(str(path), *self._reusable(), self.identity)

    def take(
        self, sequence: int, tokens: NDArray[np.int32], *, whole: bool = False
    ) -> SavedSequence:
        """A copy of a live sequence's K and V.

        Args:
            tokens: [n_tokens], its committed ones.
            whole: with what the cache still has of it outside its windows, so that a resume can go
                back further than to its end.

        Raises:
            OutOfMemoryError: the ledger has no room for it.
        """
        runner = self._runner
        snapshot = _core.SequenceSnapshot(
            runner.cache, runner.storage, sequence, tokens, runner.ledger, whole
        )
        return SavedSequence(snapshot, runner.cache, runner.storage)

    def compute(self, tokens: NDArray[np.int32]) -> SavedSequence:
        """K and V of a text: what the cache holds of it is reused, the rest computed.

        Raises:
            UsageError: the text does not fit in the KV cache.
            OutOfMemoryError: the ledger has no room for the copy.
        """
        import numpy as np

        runner = self._runner
        # One token more, which a match leaves to compute and nobody does.
        match = runner.cache.match_prefix(np.append(tokens, np.int32(0)), len(tokens))
        try:
            runner.prefill(match.sequence, tokens[match.n_tokens :])
            return self.take(match.sequence, tokens, whole=True)
        finally:
            runner.cache.release(match.sequence)

    def save_sequence(self, path: str | Path, saved: SavedSequence) -> _core.SnapshotFigures:
        """Write a saved text to a file, which appears whole or not at all.

        Raises:
            SnapshotError: it cannot be written; what was there before stays.
        """
        return saved.snapshot.save(str(path), self.identity)

    def load_sequence(self, path: str | Path) -> SavedSequence:
        """A text that :meth:`save_sequence` wrote.

        Raises:
            SnapshotError: as :meth:`load_prefix_cache`.
            OutOfMemoryError: the ledger has no room for it.
        """
        runner = self._runner
        snapshot = _core.SequenceSnapshot.load(
            str(path), runner.cache, runner.storage, self.identity, runner.ledger
        )
        return SavedSequence(snapshot, runner.cache, runner.storage)

    @cached_property
    def identity(self) -> list[tuple[str, str]]:
        """All that K and V depend on beside the tokens, and how they lie in memory."""
        from longbow_quarrel import __version__  # reads the metadata of the installed package

        runner = self._runner
        config = runner.config
        return [
            ("engine version", __version__),
            ("model", model_identity(runner.file)),
            ("kv_type_k", config.kv_type_k),
            ("kv_type_v", config.kv_type_v),
            ("block_size", str(config.block_size)),
            ("attention mask", self._masks()),
            ("device layout", runner.storage.layout_id),
        ]

    def _masks(self) -> str:
        """A window that no text of this context can fill masks nothing."""
        context = self._runner.context_length
        return ", ".join(
            "all" if window == 0 or window >= context else f"window {window} sinks {sinks}"
            for window, sinks in self._runner.masks
        )

    def _reusable(self) -> tuple[_core.KVCache, _core.KVStorage]:
        if not self._runner.config.prefix_caching:
            raise UsageError("There is no prefix cache to save or load; turn prefix_caching on.")
        return self._runner.cache, self._runner.storage


def model_identity(file: _core.GGUFFile) -> str:
    """A model by its content, not its path: name and SHA-256.

    Up to 256 MiB every byte counts. Of larger files the metadata, the list of tensors and samples
    of every tensor do: 16 pieces of 4 KiB, evenly spread.
    """
    import hashlib  # loads OpenSSL

    import numpy as np

    digest = hashlib.sha256()
    first = min((t.offset for t in file.tensors if t.split == 0), default=file.file_bytes)
    with Path(file.path).open("rb") as stream:
        digest.update(stream.read(first))
    for tensor in file.tensors:
        digest.update(f"{tensor.name} {tensor.dtype} {tensor.shape}\n".encode())
        data = file.tensor_bytes(tensor.name)
        if file.file_bytes <= _WHOLE_FILE_BYTES or len(data) <= _N_SAMPLES * _SAMPLE_BYTES:
            digest.update(data.data)
            continue
        for start in np.linspace(0, len(data) - _SAMPLE_BYTES, _N_SAMPLES, dtype=np.int64):
            digest.update(data[start : start + _SAMPLE_BYTES].data)
    name = file.get("general.name")
    return f"{name if isinstance(name, str) else 'without a name'} ({digest.hexdigest()[:32]})"
