"""Writing and reading a compact base, and what damage does to it."""

from __future__ import annotations

import dataclasses
import json
import random
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from longbow_quarrel.errors import LogitsBaseError
from longbow_quarrel.evaluation.compact import compress
from longbow_quarrel.evaluation.comparison import open_base
from longbow_quarrel.evaluation.logits_base import (
    BaseChunk,
    BaseHeader,
    LogitsBase,
    LogitsBaseWriter,
)

VOCAB = 300
HEADER = BaseHeader(
    vocab_size=VOCAB, n_ctx=32, n_chunks=2, k=20, n_samples=8, made_by="a test", model="none"
)


def made_chunk(start: int, header: BaseHeader = HEADER) -> BaseChunk:
    draw = np.random.default_rng(start)
    tokens = draw.integers(0, VOCAB, 32).astype(np.int32)
    positions = np.arange(16, 31, dtype=np.int32)
    logits = draw.standard_normal((15, VOCAB)) * 2
    rows = compress(
        logits, positions, tokens[17:], k=header.k, n_samples=header.n_samples, seed=start
    )
    return BaseChunk(start, tokens, rows)


@pytest.fixture
def chunks() -> list[BaseChunk]:
    return [made_chunk(0), made_chunk(64)]


@pytest.fixture
def path(tmp_path: Path, chunks: list[BaseChunk]) -> Path:
    with LogitsBaseWriter(tmp_path / "base", HEADER) as writer:
        for chunk in chunks:
            writer.add(chunk)
    return tmp_path / "base"


def test_what_was_written_is_read(path: Path, chunks: list[BaseChunk]) -> None:
    base = open_base(path)
    assert isinstance(base, LogitsBase)
    assert base.header == HEADER
    assert base.longest_chunk == 32
    for found, chunk in zip(base.chunks(), chunks, strict=True):
        assert (found.start, found.tokens.tolist()) == (chunk.start, chunk.tokens.tolist())
        for field in dataclasses.fields(chunk.rows):
            a, b = getattr(found.rows, field.name), getattr(chunk.rows, field.name)
            if dataclasses.is_dataclass(a):
                a, b = a.values(), b.values()
            assert (a == b).all(), field.name
    assert [p.name for p in path.parent.iterdir()] == ["base"]


def test_all_tokens_may_be_kept(tmp_path: Path) -> None:
    header = dataclasses.replace(HEADER, k=VOCAB, n_samples=0, n_chunks=1)
    with LogitsBaseWriter(tmp_path / "base", header) as writer:
        writer.add(made_chunk(0, header))
    [chunk] = LogitsBase(tmp_path / "base").chunks()
    assert chunk.rows.ids.shape == (15, VOCAB)


def test_an_interrupted_writer_leaves_nothing(tmp_path: Path, chunks: list[BaseChunk]) -> None:
    def interrupted() -> None:
        with LogitsBaseWriter(tmp_path / "base", HEADER) as writer:
            writer.add(chunks[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(LogitsBaseError, match="cannot be written"):
        LogitsBaseWriter(tmp_path / "absent" / "base", HEADER)


def read_all(data: bytes, path: Path) -> None:
    path.write_bytes(data)
    list(open_base(path).chunks())


def test_every_cut_is_noticed(path: Path) -> None:
    data = path.read_bytes()
    for n in [*range(0, 200), *random.Random(0).sample(range(200, len(data)), 100)]:
        with pytest.raises(LogitsBaseError) as error:
            read_all(data[:n], path)
        assert str(error.value).count("\n") == 0


def resealed(data: bytes) -> bytes:
    """With a right checksum, as somebody who means harm would send it."""
    return data[:-4] + struct.pack("<I", zlib.crc32(data[:-4]))


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damage_is_refused_or_harmless(path: Path, data: st.DataObject) -> None:
    """Any change of bytes ends in an error of this kind or in rows within the vocabulary."""
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(8, len(whole) - 5))
        whole[at] = data.draw(st.integers(0, 255))
    other = path.with_name("other")
    other.write_bytes(resealed(bytes(whole)))
    with suppress(LogitsBaseError):
        base = LogitsBase(other)
        _check(base)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damage_inside_the_packing_is_refused_or_harmless(path: Path, data: st.DataObject) -> None:
    """The same under the compression, where a flipped bit becomes a number."""
    whole = path.read_bytes()
    (n,) = struct.unpack_from("<I", whole, 8)
    at = 12 + n
    start, n_tokens, n_rows, n_packed, _ = struct.unpack_from("<5I", whole, at)
    plain = bytearray(zlib.decompress(whole[at + 20 : at + 20 + n_packed]))
    for _ in range(data.draw(st.integers(1, 4))):
        plain[data.draw(st.integers(0, len(plain) - 1))] = data.draw(st.integers(0, 255))
    packed = zlib.compress(bytes(plain))
    record = struct.pack("<5I", start, n_tokens, n_rows, len(packed), 0) + packed
    other = path.with_name("other")
    other.write_bytes(resealed(whole[:at] + record + whole[at + 20 + n_packed :]))
    with suppress(LogitsBaseError):
        _check(LogitsBase(other))


def _check(base: LogitsBase) -> None:
    logits = np.zeros((15, base.vocab_size), np.float32)
    for chunk in base.chunks():
        found = chunk.compare(0, logits[: len(chunk.rows)])
        assert np.isfinite(found.kl).all()


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({"vocab_size": -1}, "out of range"),
        ({"vocab_size": 1 << 40}, "out of range"),
        ({"k": 301}, "out of range"),
        ({"n_samples": 0}, "out of range"),
        ({"n_chunks": 3}, "ends early"),
        ({"n_chunks": 1}, "more chunks"),
        ({"k": "20"}, "its k makes no sense"),
        ({"model": 7}, "its model makes no sense"),
        ({"vocab_size": 20, "k": 10}, "wrong length"),
        ({"vocab_size": 20, "k": 20, "n_samples": 0}, "wrong length"),
        ({"n_samples": 1 << 19}, "larger than its bytes"),
        ({"extra": 1}, "of no use"),
    ],
)
def test_headers_that_lie(path: Path, changed: dict[str, object], part: str) -> None:
    data = path.read_bytes()
    (n,) = struct.unpack_from("<I", data, 8)
    header = json.dumps(json.loads(data[12 : 12 + n]) | changed).encode()
    lie = data[:8] + struct.pack("<I", len(header)) + header + data[12 + n :]
    with pytest.raises(LogitsBaseError, match=part):
        read_all(resealed(lie), path)


@pytest.mark.parametrize("data", [b"", b"QLOG", b"GGUF" * 10, b"QLOGITS1", b"QLOGITS1" + b"[" * 99])
def test_other_files(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(LogitsBaseError):
        read_all(data, tmp_path / "file")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(LogitsBaseError, match="cannot be read"):
        open_base(tmp_path / "absent")
    with pytest.raises(LogitsBaseError, match="cannot be read"):
        open_base(tmp_path)
