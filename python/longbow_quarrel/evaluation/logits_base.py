"""A compact file of one engine's predictions, to compare others with; see :mod:`.compact`.

Layout, little-endian: ``QLOGITS1``, the length of a JSON object (uint32), the object, then for each
chunk of the text five uint32 (index of its first token in the text, tokens, rows, packed bytes,
zero) and its packed bytes, and last a CRC-32 of all before it. A packed chunk is a zlib stream of
arrays, each with the first bytes of all elements first, then the second ones and so on.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from longbow_quarrel.errors import LogitsBaseError
from longbow_quarrel.evaluation.compact import CompactRows, Grid, RowDivergences, divergences

MAGIC = b"QLOGITS1"
_RECORD = struct.Struct("<5I")
_MOST_HEADER = 1 << 16
_MOST_UNPACKED = 1 << 30  # bytes of a chunk
_ZLIB_RATIO = 1032  # deflate cannot do better


@dataclass(frozen=True)
class BaseHeader:
    """What a base is of.

    Attributes:
        n_ctx: tokens of a chunk, as the text was cut; 0 if they differ.
        k: tokens kept of each row.
        n_samples: drawn from the others.
        made_by: which computation the predictions are from, in words.
        model: its name.
    """

    vocab_size: int
    n_ctx: int
    n_chunks: int
    k: int
    n_samples: int
    made_by: str
    model: str


@dataclass(frozen=True)
class BaseChunk:
    """A piece of the text with what the base says of it.

    Attributes:
        start: index of its first token in the text.
        tokens: of the text, int32 [n_tokens]; BOS not yet put in place of the first.
        rows: the predictions.
    """

    start: int
    tokens: NDArray[np.int32]
    rows: CompactRows

    @property
    def positions(self) -> NDArray[np.int32]:
        """In the chunk, of the tokens that the rows follow, ascending, int32 [n_rows]."""
        return self.rows.positions

    def compare(self, first: int, logits: NDArray[np.float32]) -> RowDivergences:
        """The rows from ``first`` on beside logits [n_rows, vocab_size]."""
        rows = self.rows[first : first + len(logits)]
        return divergences(rows, logits, self.tokens[rows.positions + 1])


class LogitsBaseWriter:
    """Writes a base chunk by chunk; the file appears whole when the ``with`` block ends well.

    Raises:
        LogitsBaseError: it cannot be written.
    """

    def __init__(self, path: Path, header: BaseHeader) -> None:
        self._path = path
        self._part = path.with_name(path.name + ".part")
        self._header = header
        self._crc = 0
        self._n_chunks = 0
        try:
            self._file = self._part.open("wb")
            text = json.dumps(asdict(header)).encode()
            self._write(MAGIC + struct.pack("<I", len(text)) + text)
        except OSError as e:
            raise _unwritable(path, e) from None

    def add(self, chunk: BaseChunk) -> None:
        rows = chunk.rows
        packed = zlib.compress(
            b"".join(_planes(a) for a in (chunk.tokens, *_arrays_of(rows))), level=9
        )
        record = _RECORD.pack(chunk.start, len(chunk.tokens), len(rows), len(packed), 0)
        try:
            self._write(record + packed)
        except OSError as e:
            raise _unwritable(self._path, e) from None
        self._n_chunks += 1

    def __enter__(self) -> LogitsBaseWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is not None:
                self._file.close()
                self._part.unlink(missing_ok=True)
                return
            assert self._n_chunks == self._header.n_chunks
            self._file.write(struct.pack("<I", self._crc))
            self._file.close()
            self._part.replace(self._path)
        except OSError as e:
            raise _unwritable(self._path, e) from None

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._crc = zlib.crc32(data, self._crc)


class LogitsBase:
    """Reads a base. Nothing in the file is trusted.

    Raises:
        LogitsBaseError: it cannot be read or is damaged, here or in :meth:`chunks`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._data = path.read_bytes()
        except OSError as e:
            raise LogitsBaseError(f"{path} cannot be read ({e.strerror}).") from None
        self.header, self._begin = self._read_header()

    @property
    def vocab_size(self) -> int:
        return self.header.vocab_size

    @property
    def n_ctx(self) -> int:
        """Tokens of a chunk; 0 if they differ."""
        return self.header.n_ctx

    @property
    def n_chunks(self) -> int:
        return self.header.n_chunks

    @property
    def longest_chunk(self) -> int:
        """Tokens of it."""
        return max(n_tokens for _, n_tokens, _, _ in self._records())

    def describe(self) -> dict[str, Any]:
        """The header as plain data."""
        return {"format": "longbow-quarrel", **asdict(self.header)}

    def chunks(self) -> Iterator[BaseChunk]:
        for start, n_tokens, n_rows, packed in self._records():
            yield self._unpack(start, n_tokens, n_rows, packed)

    def _read_header(self) -> tuple[BaseHeader, int]:
        data = self._data
        begin = len(MAGIC) + 4
        self._need(data[: len(MAGIC)] == MAGIC, "it does not begin like one")
        self._need(len(data) >= begin + 4, "it ends early")
        self._need(
            zlib.crc32(data[:-4]) == int.from_bytes(data[-4:], "little"),
            "its checksum is wrong, so it was cut short or changed",
        )
        n = int.from_bytes(data[len(MAGIC) : begin], "little")
        self._need(n <= _MOST_HEADER and begin + n <= len(data) - 4, "its header is too long")
        try:
            values = json.loads(data[begin : begin + n])
        except (ValueError, RecursionError):
            raise self._error("its header is no JSON") from None
        names = {field.name: field.type for field in fields(BaseHeader)}
        self._need(
            isinstance(values, dict) and values.keys() == names.keys(), "its header is of no use"
        )
        for name, kind in names.items():
            fits = isinstance(values[name], str if kind == "str" else int)
            self._need(fits and not isinstance(values[name], bool), f"its {name} makes no sense")
        header = BaseHeader(**values)
        sizes = (header.vocab_size, header.n_chunks, header.k)
        self._need(
            min(sizes) >= 1
            and max(sizes) < 1 << 31
            and header.k <= header.vocab_size
            and 0 <= header.n_ctx < 1 << 31
            and 0 <= header.n_samples < 1 << 20
            and (header.n_samples > 0) == (header.k < header.vocab_size),
            "its header has numbers out of range",
        )
        return header, begin + n

    def _records(self) -> Iterator[tuple[int, int, int, memoryview]]:
        """First token, tokens, rows and packed bytes of each chunk."""
        at, end = self._begin, len(self._data) - 4
        for _ in range(self.header.n_chunks):
            self._need(at + _RECORD.size <= end, "it ends early")
            start, n_tokens, n_rows, n_packed, zero = _RECORD.unpack_from(self._data, at)
            at += _RECORD.size
            self._need(
                zero == 0
                and max(start, n_tokens) < 1 << 31
                and 0 < n_rows < n_tokens
                and n_packed <= end - at,
                "a chunk has numbers out of range",
            )
            yield start, n_tokens, n_rows, memoryview(self._data)[at : at + n_packed]
            at += n_packed
        self._need(at == end, "it has more chunks than it says")

    def _unpack(self, start: int, n_tokens: int, n_rows: int, packed: memoryview) -> BaseChunk:
        layout = _layout(n_tokens, n_rows, self.header)
        n_bytes = sum(np.dtype(t).itemsize * math.prod(shape) for t, shape in layout)
        self._need(
            n_bytes <= min(_MOST_UNPACKED, _ZLIB_RATIO * (len(packed) + 64)),
            "a chunk says that it is larger than its bytes",
        )
        try:
            inflate = zlib.decompressobj()
            plain = inflate.decompress(packed, n_bytes + 1)
        except zlib.error:
            raise self._error("a chunk does not unpack") from None
        self._need(len(plain) == n_bytes and inflate.eof, "a chunk has a wrong length")
        arrays = _unplane(plain, layout)
        chunk = BaseChunk(start, arrays[0], _rows_of(arrays[1:]))
        self._check(chunk)
        return chunk

    def _check(self, chunk: BaseChunk) -> None:
        rows, vocab_size = chunk.rows, self.header.vocab_size

        def ascend(values: NDArray[np.int32], least: int) -> bool:
            return bool((np.diff(values.astype(np.int64), axis=-1) >= least).all())

        ids = (chunk.tokens, rows.tops, rows.ids, rows.sample_ids)
        self._need(all(_within(a, vocab_size) for a in ids), "a token is not in the vocabulary")
        self._need(
            _within(rows.positions, len(chunk.tokens) - 1) and ascend(rows.positions, 1),
            "positions are out of order",
        )
        self._need(ascend(rows.ids, 1), "tokens are out of order")
        self._need((rows.ids == rows.tops[:, None]).any(axis=1).all(), "a likeliest token lacks")
        grids = (rows.log_probs, rows.sample_log_probs)
        limits = [rows.losses, *(a for grid in grids for a in (grid.low, grid.high))]
        self._need(all((np.abs(a) < 1e5).all() for a in limits), "a probability is out of range")
        self._need(
            all((g.low <= g.high).all() and (g.high <= 1e-3).all() for g in grids)
            and bool((rows.losses >= -1e-3).all()),
            "a probability is above one",
        )
        rest = rows.log_rest
        good = (rest > -1e5) & (rest < -1e-7) if self.header.n_samples else rest == -np.inf
        self._need(good.all(), "a probability is out of range")

    def _need(self, condition: Any, what: str) -> None:
        if not condition:
            raise self._error(what)

    def _error(self, what: str) -> LogitsBaseError:
        return LogitsBaseError(f"{self.path} is no usable logits base: {what}; make it again.")


def _within(values: NDArray[np.int32], n: int) -> bool:
    return values.size == 0 or (int(values.min()) >= 0 and int(values.max()) < n)


def _layout(
    n_tokens: int, n_rows: int, header: BaseHeader
) -> Sequence[tuple[DTypeLike, tuple[int, ...]]]:
    """Types and shapes of a chunk's arrays, in the order of :func:`_arrays_of`."""
    k, m = (n_rows, header.k), (n_rows, header.n_samples)
    row = (n_rows,)
    return (
        ("<i4", (n_tokens,)),
        *(("<i4", row), ("<f4", row), ("<i4", row), ("<i4", k), ("<f4", row), ("<f4", row)),
        *(("<u2", k), ("<f4", row), ("<i4", m), ("<f4", row), ("<f4", row), ("<u2", m)),
    )


def _arrays_of(rows: CompactRows) -> list[NDArray[Any]]:
    top, sample = rows.log_probs, rows.sample_log_probs
    return [
        rows.positions,
        rows.losses,
        rows.tops,
        _differences(rows.ids),
        *(top.low, top.high, top.codes),
        rows.log_rest,
        _differences(rows.sample_ids),
        *(sample.low, sample.high, sample.codes),
    ]


def _rows_of(arrays: Sequence[NDArray[Any]]) -> CompactRows:
    positions, losses, tops, ids, low, high, codes, rest, sampled, *sample = arrays
    return CompactRows(
        positions,
        losses,
        tops,
        _sums(ids),
        Grid(low, high, codes),
        rest,
        _sums(sampled),
        Grid(*sample),
    )


def _differences(ids: NDArray[np.int32]) -> NDArray[np.int32]:
    """Small numbers pack well."""
    return np.diff(ids, axis=1, prepend=np.int32(0)).astype(np.int32)


def _sums(differences: NDArray[np.int32]) -> NDArray[np.int32]:
    wide = np.cumsum(differences, axis=1, dtype=np.int64)
    return np.clip(wide, -1, np.iinfo(np.int32).max).astype(np.int32)


def _planes(array: NDArray[Any]) -> bytes:
    little = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
    return little.reshape(-1).view(np.uint8).reshape(-1, array.dtype.itemsize).T.tobytes()


def _unplane(
    data: bytes, layout: Sequence[tuple[DTypeLike, tuple[int, ...]]]
) -> list[NDArray[Any]]:
    arrays, at = [], 0
    for kind, shape in layout:
        dtype = np.dtype(kind)
        n = math.prod(shape)
        planes = np.frombuffer(data, np.uint8, n * dtype.itemsize, at).reshape(dtype.itemsize, n)
        flat = np.ascontiguousarray(planes.T).reshape(-1).view(dtype)
        arrays.append(flat.reshape(shape).astype(dtype.newbyteorder("="), copy=False))
        at += n * dtype.itemsize
    return arrays


def _unwritable(path: Path, error: OSError) -> LogitsBaseError:
    return LogitsBaseError(f"{path} cannot be written ({error.strerror}); choose another place.")
