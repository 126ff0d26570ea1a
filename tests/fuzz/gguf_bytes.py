"""Writes GGUF files byte by byte, so that a test or a fuzzing seed can also write wrong ones.

Layout (little endian): ``GGUF``, version u32, tensor count u64, metadata count u64, the metadata
(key string, type u32, value), the tensors (name string, number of dimensions u32, dimensions u64,
type u32, offset u64), padding to the alignment, the tensors' data. A string is a u64 length and
its bytes. The header thus takes 24 bytes, and the first entry starts at byte 24.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

UINT8, INT8, UINT16, INT16, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, INT64, FLOAT64 = (
    range(13)
)
F32, F16, Q4_0, Q8_0, Q4_K = 0, 1, 2, 8, 12

FORMATS = {
    UINT8: "<B", INT8: "<b", UINT16: "<H", INT16: "<h", UINT32: "<I", INT32: "<i",
    FLOAT32: "<f", BOOL: "<?", UINT64: "<Q", INT64: "<q", FLOAT64: "<d",
}  # fmt: skip


def string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def value(type_: int, content: object) -> bytes:
    """One value of a metadata type, an array's elements excepted."""
    if type_ == STRING:
        assert isinstance(content, str | bytes)
        return string(content)
    return struct.pack(FORMATS[type_], content)


def entry(key: str | bytes, type_: int, content: object) -> bytes:
    """One metadata entry; ``bytes`` as content are taken as they are unless it is a string."""
    raw = isinstance(content, bytes) and type_ != STRING
    return string(key) + struct.pack("<I", type_) + (content if raw else value(type_, content))


def array(
    key: str | bytes, type_: int, contents: Sequence[object], *, count: int | None = None
) -> bytes:
    """An array entry, which may lie about its ``count``."""
    head = struct.pack("<IQ", type_, len(contents) if count is None else count)
    return entry(key, ARRAY, head + b"".join(value(type_, content) for content in contents))


@dataclass
class Tensor:
    """A tensor; its ``offset`` in the data section follows the one before it unless given."""

    name: str | bytes
    dims: Sequence[int]
    type: int
    data: bytes
    offset: int | None = None
    n_dims: int | None = None


def gguf_bytes(
    entries: Sequence[bytes] = (),
    tensors: Sequence[Tensor] = (),
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    alignment: int = 32,
    n_tensors: int | None = None,
    n_entries: int | None = None,
) -> bytes:
    """A whole file; the counts are the true ones unless given."""
    head = magic + struct.pack(
        "<IQQ",
        version,
        len(tensors) if n_tensors is None else n_tensors,
        len(entries) if n_entries is None else n_entries,
    )
    infos, data = b"", b""
    for tensor in tensors:
        data += bytes(-len(data) % alignment)
        n_dims = len(tensor.dims) if tensor.n_dims is None else tensor.n_dims
        infos += string(tensor.name) + struct.pack("<I", n_dims)
        infos += struct.pack(f"<{len(tensor.dims)}Q", *tensor.dims)
        infos += struct.pack(
            "<IQ", tensor.type, len(data) if tensor.offset is None else tensor.offset
        )
        data += tensor.data
    body = head + b"".join(entries) + infos
    return body + bytes(-len(body) % alignment) + data if tensors else body


def good_entries() -> list[bytes]:
    """An entry of every metadata type and an array of every element type."""
    numbers = [type_ for type_ in FORMATS if type_ != BOOL]
    return [
        entry("general.architecture", STRING, "toy"),
        entry("general.alignment", UINT32, 32),
        *(entry(f"scalar.{type_}", type_, 7) for type_ in numbers),
        entry("scalar.bool", BOOL, True),
        *(array(f"array.{type_}", type_, [1, 2, 3]) for type_ in numbers),
        array("array.bool", BOOL, [True, False]),
        array("array.string", STRING, ["a", "", "déjà", b"\xff\xfe"]),
        array("array.empty", STRING, []),
    ]


def good_tensors() -> list[Tensor]:
    return [
        Tensor("token_embd.weight", [32, 2], F32, struct.pack("<64f", *range(64))),
        Tensor("blk.0.attn_q.weight", [32, 3], Q8_0, (b"\x00\x3c" + bytes(range(32))) * 3),
        Tensor("blk.0.attn_k.weight", [64, 1, 1, 2], Q4_0, (b"\x00\x3c" + bytes(range(16))) * 4),
        Tensor("blk.0.ffn_up.weight", [256], Q4_K, bytes(range(144))),
        Tensor("scalar", [], F16, b"\x00\x3c"),
    ]


def good_file(*, version: int = 3) -> bytes:
    """A well-formed file that uses every part of the format."""
    return gguf_bytes(good_entries(), good_tensors(), version=version)
