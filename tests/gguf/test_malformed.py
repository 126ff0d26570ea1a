"""Files that lie, are cut short or are something else: each gets one clear error."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fuzz.gguf_bytes import (
    ARRAY,
    BOOL,
    F32,
    INT32,
    Q4_K,
    Q8_0,
    STRING,
    UINT8,
    UINT32,
    UINT64,
    Tensor,
    array,
    entry,
    gguf_bytes,
    good_entries,
    good_file,
    good_tensors,
    string,
)
from longbow_quarrel import _core
from longbow_quarrel.errors import ModelFormatError

GOOD = good_file()
FIRST = 24  # where the first entry after the header starts


@dataclass
class Case:
    """A wrong file, and what its error must name: the place, its byte offset and the problem."""

    data: bytes
    place: str
    offset: int
    problem: str


def u32(number: int) -> bytes:
    return struct.pack("<I", number)


def u64(number: int) -> bytes:
    return struct.pack("<Q", number)


def one_tensor(**changes: object) -> bytes:
    """A file with the tensor ``t``, 8 floats, changed; its entry starts at byte 24."""
    tensor = Tensor("t", [8], F32, bytes(32))
    for name, changed in changes.items():
        setattr(tensor, name, changed)
    return gguf_bytes([], [tensor])


CASES = {
    # The header. It takes 24 bytes: magic, version at 4, tensor count at 8, metadata count at 16.
    "cut in the version": Case(GOOD[:6], "header", 4, "expected 4 bytes for its version, got 2"),
    "cut in the tensor count": Case(GOOD[:12], "header", 8, "tensor count, got 4"),
    "cut in the metadata count": Case(GOOD[:20], "header", 16, "metadata count, got 4"),
    "version 1": Case(gguf_bytes(version=1), "header", 4, "expected GGUF version 2 or 3, got 1"),
    "version 0": Case(gguf_bytes(version=0), "header", 4, "got 0"),
    "a future version": Case(gguf_bytes(version=4), "header", 4, "got 4"),
    "big endian": Case(b"GGUF" + bytes([0, 0, 0, 3]) + bytes(16), "header", 4, "big-endian"),
    "lying metadata count": Case(
        gguf_bytes(good_entries(), n_entries=10**6), "header", FIRST, "claims 1000000 metadata"
    ),
    "largest metadata count": Case(
        gguf_bytes(good_entries(), n_entries=2**64 - 1), "header", FIRST, f"claims {2**64 - 1} met"
    ),
    "one entry too many": Case(
        gguf_bytes([entry("k", UINT8, 1), bytes(25)], n_entries=3),
        "metadata entry 1",
        38,
        "expected a key of 1 to 65535 bytes, got 0",
    ),
    "lying tensor count": Case(
        gguf_bytes([], good_tensors(), n_tensors=10**6), "header", FIRST, "claims 1000000 tensors"
    ),
    "largest tensor count": Case(
        gguf_bytes([], good_tensors(), n_tensors=2**64 - 1), "header", FIRST, "claims 1844"
    ),
    # Metadata. The entry "k" has its key's bytes at 32, its type at 33 and its value at 37.
    "cut in a key": Case(
        gguf_bytes([u64(50) + bytes(20)]), "metadata entry 0", 32, "50 bytes for its key, got 20"
    ),
    "huge key": Case(
        gguf_bytes([u64(2**64 - 1) + bytes(20)]), "metadata entry 0", 32, "got 20 to the end"
    ),
    "empty key": Case(
        gguf_bytes([entry("", UINT32, 1)]), "metadata entry 0", FIRST, "1 to 65535 bytes, got 0"
    ),
    "key too long": Case(
        gguf_bytes([entry("k" * 65_536, UINT8, 1)]), "metadata entry 0", FIRST, "got 65536"
    ),
    "unknown metadata type": Case(
        gguf_bytes([string("k") + u32(13) + bytes(8)]), 'key "k"', 33, "unknown metadata type 13"
    ),
    "cut in a value": Case(
        gguf_bytes([string("k") + u32(UINT64) + bytes(4)]), 'key "k"', 37, "8 bytes for its value"
    ),
    "bool of 2": Case(
        gguf_bytes([entry("k", BOOL, b"\x02")]), 'key "k"', 37, "expected a bool of 0 or 1, got 2"
    ),
    "bool of 2 in an array": Case(
        gguf_bytes([entry("k", ARRAY, u32(BOOL) + u64(2) + b"\x01\x02")]), 'key "k"', 50, "got 2"
    ),
    "string beyond the end": Case(
        gguf_bytes([string("k") + u32(STRING) + u64(100) + b"abc"]), 'key "k"', 45, "got 3 to the"
    ),
    "huge string": Case(
        gguf_bytes([string("k") + u32(STRING) + u64(2**64 - 1) + b"abc"]),
        'key "k"',
        45,
        "expected 18446744073709551615 bytes for its string",
    ),
    "unknown element type": Case(
        gguf_bytes([entry("k", ARRAY, u32(99) + u64(0))]), 'key "k"', 37, "metadata type 99"
    ),
    "array of arrays": Case(
        gguf_bytes([entry("k", ARRAY, u32(ARRAY) + u64(1) + u32(UINT8) + u64(0))]),
        'key "k"',
        37,
        "array of arrays",
    ),
    "array longer than the file": Case(
        gguf_bytes([array("k", INT32, [1, 2], count=3)]), 'key "k"', 49, "claims 3 array elements"
    ),
    "array whose bytes overflow": Case(
        gguf_bytes([array("k", UINT64, [1], count=2**61 + 1)]), 'key "k"', 49, "claims 2305843009"
    ),
    "strings longer than the file": Case(
        gguf_bytes([array("k", STRING, ["a", "b"], count=2**62)]), 'key "k"', 49, "strings"
    ),
    "a string in an array beyond the end": Case(
        gguf_bytes([entry("k", ARRAY, u32(STRING) + u64(1) + u64(9) + b"abc")]),
        'key "k"',
        57,
        "expected 9 bytes",
    ),
    "duplicate key": Case(
        gguf_bytes([entry("k", UINT8, 1), entry("j", UINT8, 1), entry("k", UINT8, 2)]),
        'key "k"',
        52,
        "appears a second time (the first is at byte 24)",
    ),
    **{
        f"alignment of {alignment}": Case(
            gguf_bytes([entry("general.alignment", UINT32, alignment)]),
            'key "general.alignment"',
            FIRST,
            f"expected a power of two of at least 8, got {alignment}",
        )
        for alignment in (0, 4, 48, 2**32 - 1)
    },
    "alignment of another type": Case(
        gguf_bytes([entry("general.alignment", STRING, "32")]),
        'key "general.alignment"',
        FIRST,
        "expected a uint32",
    ),
    # Tensors. The entry "t" has its dimension count at 33, its dimensions from 37, its type at 45
    # and its offset at 49.
    "cut in a tensor": Case(
        gguf_bytes([], [Tensor("t", [8], F32, b"")])[:50], 'tensor "t"', 49, "8 bytes for its off"
    ),
    "five dimensions": Case(
        one_tensor(dims=[8, 1, 1, 1, 1]), 'tensor "t"', 33, "at most 4 dimensions, got 5"
    ),
    "huge number of dimensions": Case(
        one_tensor(n_dims=2**32 - 1), 'tensor "t"', 33, "got 4294967295"
    ),
    "dimension of 0": Case(one_tensor(dims=[0]), 'tensor "t"', 33, "dimension of 0"),
    "rows that are no whole blocks": Case(
        one_tensor(type=Q8_0, dims=[48, 2]), 'tensor "t"', FIRST, "rows of 48 elements"
    ),
    "one element of a block type": Case(
        one_tensor(type=Q4_K, dims=[]), 'tensor "t"', FIRST, "rows of 1 elements"
    ),
    "more elements than 64 bits": Case(
        one_tensor(dims=[2**32, 2**32, 2]), 'tensor "t"', FIRST, "more elements than 64 bits"
    ),
    "elements that overflow to few": Case(
        one_tensor(dims=[2**33, 2**31]), 'tensor "t"', FIRST, "more elements than 64 bits"
    ),
    "more bytes than 64 bits": Case(
        one_tensor(dims=[2**62]), 'tensor "t"', FIRST, "more bytes than 64 bits"
    ),
    "offset that is not aligned": Case(
        one_tensor(offset=16), 'tensor "t"', 49, "multiple of the alignment 32, got 16"
    ),
    "offset beyond the end": Case(
        one_tensor(offset=64), 'tensor "t"', FIRST, "expected 32 bytes of data at offset 64"
    ),
    "offset that overflows": Case(
        one_tensor(offset=2**64 - 32), 'tensor "t"', FIRST, "at offset 18446744073709551584"
    ),
    "data beyond the end": Case(
        one_tensor(data=bytes(31)), 'tensor "t"', FIRST, "which has 31 bytes"
    ),
    "duplicate tensor": Case(
        gguf_bytes([], [Tensor("t", [8], F32, bytes(32))] * 2),
        'tensor "t"',
        57,
        "appears a second time (the first is at byte 24)",
    ),
    "overlapping tensors": Case(
        gguf_bytes(
            [],
            [
                Tensor("b", [8], F32, bytes(32), offset=32),
                Tensor("a", [16], F32, bytes(64), offset=0),
            ],
        ),
        'tensor "b"',
        128,
        'overlaps that of tensor "a"',
    ),
    **{
        f"tensor type {name}": Case(
            one_tensor(type=number), 'tensor "t"', 45, f"tensor type {name}, which is not supported"
        )
        for number, name in {
            4: "Q4_2", 9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 20: "IQ4_NL", 26: "I32", 28: "F64",
            31: "Q4_0_4_4", 34: "TQ1_0", 39: "MXFP4", 41: "Q1_0", 42: "type 42",
            2**32 - 1: "type 4294967295",
        }.items()
    },
    # What a name may do to the message itself.
    "a name that is not text": Case(
        gguf_bytes([string(b'\xff"\x1b[2J') + u32(13) + bytes(8)]),
        'key "\\xff\\x22\\x1b[2J"',
        38,
        "unknown metadata type",
    ),
    "a name of enormous length": Case(
        gguf_bytes([string("é" * 1000) + u32(13) + bytes(8)]),
        'key "' + "é" * 50 + '..."',
        2032,
        "unknown metadata type",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_error_names_file_place_and_offset(tmp_path: Path, case: Case) -> None:
    path = tmp_path / "wrong.gguf"
    path.write_bytes(case.data)
    with pytest.raises(ModelFormatError) as raised:
        _core.GGUFFile(path)
    message = str(raised.value)
    assert message.startswith(f'"{path}": {case.place} at byte {case.offset}: ')
    assert case.problem in message
    assert "\n" not in message


def pickle_of_protocol(number: int) -> bytes:
    return bytes([0x80, number]) + b"}q\x00."


FOREIGN = {
    "empty": (b"", "is empty"),
    "cut in the magic": (b"GGU", "is not a GGUF file"),
    "text": (b"hello", "is not a GGUF file"),
    "web page": (b"\n<!DOCTYPE html><html>", "web page"),
    "web page without a type": (b"<HTML><body>", "web page"),
    "zip": (b"PK\x03\x04rest", "zip archive"),
    "pickle 2": (pickle_of_protocol(2), "pickle"),
    "pickle 4": (pickle_of_protocol(4), "pickle"),
    "gzip": (b"\x1f\x8b\x08", "gzip"),
    "zstd": (b"\x28\xb5\x2f\xfd", "zstd"),
    "git lfs": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "safetensors": (u64(20) + b'{"__metadata__":{}}  ', "safetensors"),
    "json": (b' {"a": 1}', "JSON"),
    "ggml": (b"lmgg", "GGML format"),
    "ggjt": (b"tjgg", "GGJT format"),
}


@pytest.mark.parametrize(("data", "problem"), FOREIGN.values(), ids=FOREIGN.keys())
def test_says_what_a_foreign_file_looks_like(tmp_path: Path, data: bytes, problem: str) -> None:
    path = tmp_path / "foreign.gguf"
    path.write_bytes(data)
    with pytest.raises(ModelFormatError) as raised:
        _core.GGUFFile(path)
    message = str(raised.value)
    assert message.startswith(f'"{path}": ')
    assert problem in message
    assert "; " in message or "`" in message or ", " in message, "names a fix"


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match=r'absent\.gguf": no such file'):
        _core.GGUFFile(tmp_path / "absent.gguf")


def test_a_directory(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match="is a directory"):
        _core.GGUFFile(tmp_path)


def test_a_named_pipe_does_not_hang(tmp_path: Path) -> None:
    path = tmp_path / "pipe.gguf"
    os.mkfifo(path)
    with pytest.raises(ModelFormatError, match="not a regular file"):
        _core.GGUFFile(path)


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(GOOD)
    path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may read every file, so be "nobody" for a moment
    try:
        with pytest.raises(ModelFormatError, match=r"cannot be opened .* check its permissions"):
            _core.GGUFFile(path)
    finally:
        os.seteuid(user)


def test_a_path_that_is_not_text(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff.gguf"
    with pytest.raises(ModelFormatError, match=r"\\xff\.gguf"):
        _core.GGUFFile(os.fsdecode(path))


def walk(path: Path) -> None:
    """Reads everything that a file gives."""
    file = _core.GGUFFile(path)
    assert len(file.metadata) == len(file.keys())
    for tensor in file.tensors:
        assert len(file.tensor_bytes(tensor.name).tobytes()) == tensor.n_bytes
        assert file.dequantize(tensor.name).shape == tensor.shape[::-1]


def opens_or_is_refused(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    try:
        walk(path)
    except ModelFormatError as error:
        message = str(error)
    else:
        return
    assert message.startswith(f'"{path}": ')


def test_every_truncation_is_refused_or_read(tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    for length in range(len(GOOD)):
        opens_or_is_refused(path, GOOD[:length])
    path.write_bytes(GOOD[:-1])
    with pytest.raises(ModelFormatError, match="truncated"):
        _core.GGUFFile(path)


edits = st.lists(
    st.tuples(
        st.integers(0, len(GOOD) - 1),
        st.sampled_from([b"\x00", b"\xff", b"\x01", bytes(8), b"\xff" * 8, u64(2**63), u32(9)])
        | st.binary(min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=4,
)


@given(edits=edits, length=st.integers(0, len(GOOD)) | st.just(len(GOOD)))
@example(edits=[(8, u64(2**63))], length=len(GOOD))
@settings(max_examples=500, deadline=None)
def test_mutations_never_crash(
    tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[int, bytes]], length: int
) -> None:
    data = bytearray(GOOD)
    for position, replacement in edits:
        data[position : position + len(replacement)] = replacement
    path = tmp_path_factory.getbasetemp() / "mutated.gguf"
    opens_or_is_refused(path, bytes(data[:length]))


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS")
def test_lying_counts_allocate_nothing(tmp_path: Path) -> None:
    """A 4 MB file that claims the world is read within 64 MB more than an empty process needs."""
    filler = bytes(4 << 20)
    lies = [
        gguf_bytes([filler], n_entries=2**60),
        gguf_bytes([entry("k", ARRAY, u32(STRING) + u64(2**40)) + filler]),
        gguf_bytes([entry("k", ARRAY, u32(UINT8) + u64(2**60)) + filler]),
        gguf_bytes([filler], n_entries=0, n_tensors=2**60),
    ]
    paths = [tmp_path / f"lie{i}.gguf" for i in range(len(lies))]
    for path, data in zip(paths, lies, strict=True):
        path.write_bytes(data)
    script = """
        import resource, sys
        from longbow_quarrel import _core
        from longbow_quarrel.errors import ModelFormatError
        pages = int(open("/proc/self/statm").read().split()[0])
        limit = pages * resource.getpagesize() + (64 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for path in sys.argv[1:]:
            try:
                _core.GGUFFile(path)
            except ModelFormatError:
                continue
            raise SystemExit(f"{path} was taken for a model")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, paths)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
