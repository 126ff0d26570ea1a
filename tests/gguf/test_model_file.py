"""Well-formed models: what the reader says about them."""

from __future__ import annotations

import gc
import os
import struct
import time
from pathlib import Path

import numpy as np
import pytest

import gguf
from fuzz.gguf_bytes import (
    BOOL,
    F32,
    FORMATS,
    INT32,
    STRING,
    UINT16,
    UINT32,
    Tensor,
    array,
    entry,
    gguf_bytes,
    good_entries,
    good_file,
    good_tensors,
)
from longbow_quarrel import _core
from longbow_quarrel.errors import ModelFormatError

NUMPY_TYPES = {
    0: np.uint8, 1: np.int8, 2: np.uint16, 3: np.int16, 4: np.uint32, 5: np.int32,
    6: np.float32, 10: np.uint64, 11: np.int64, 12: np.float64,
}  # fmt: skip


def write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


@pytest.fixture
def good(tmp_path: Path) -> _core.GGUFFile:
    return _core.GGUFFile(write(tmp_path / "good.gguf", good_file()))


@pytest.mark.parametrize("version", [2, 3])
def test_opens_both_versions(tmp_path: Path, version: int) -> None:
    path = write(tmp_path / "a.gguf", good_file(version=version))
    file = _core.GGUFFile(path)
    assert (file.version, file.n_splits, file.path) == (version, 1, path)
    assert file.file_bytes == os.path.getsize(path)  # noqa: PTH202
    assert len(file.tensors) == len(good_tensors())


def test_takes_a_path_object(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    write(path, good_file())
    assert _core.GGUFFile(path).path == str(path)


def test_metadata_values_have_their_types(good: _core.GGUFFile) -> None:
    metadata = good.metadata
    assert list(metadata) == good.keys()
    assert len(metadata) == len(good_entries())
    assert metadata["general.architecture"] == "toy"
    assert metadata["scalar.bool"] is True
    for number in NUMPY_TYPES:
        scalar = metadata[f"scalar.{number}"]
        assert scalar == 7
        assert type(scalar) is (float if FORMATS[number] in ("<f", "<d") else int)
        values = metadata[f"array.{number}"]
        assert isinstance(values, np.ndarray)
        assert values.dtype == NUMPY_TYPES[number]
        assert values.tolist() == [1, 2, 3]
    assert metadata["array.bool"].dtype == np.bool_
    assert metadata["array.bool"].tolist() == [True, False]
    assert metadata["array.empty"] == []


def test_bytes_that_are_not_utf8_survive(good: _core.GGUFFile) -> None:
    strings = good.get("array.string")
    assert strings[:3] == ["a", "", "déjà"]
    assert strings[3].encode("utf-8", "surrogateescape") == b"\xff\xfe"


def test_names_that_are_not_utf8_can_be_looked_up(tmp_path: Path) -> None:
    data = gguf_bytes([entry(b"k\xff", UINT32, 5)], [Tensor(b"t\xff", [8], F32, bytes(32))])
    file = _core.GGUFFile(write(tmp_path / "a.gguf", data))
    assert file.get(file.keys()[0]) == 5
    assert file.dequantize(file.tensors[0].name).tolist() == [0.0] * 8
    with pytest.raises(KeyError) as raised:
        file.dequantize("u\udcff")
    assert raised.value.args == ('no tensor "u\\xff" in the model',)


def test_get_returns_one_value_or_the_default(good: _core.GGUFFile) -> None:
    assert good.get("general.architecture") == "toy"
    assert good.get("no.such.key") is None
    assert good.get("no.such.key", 3) == 3


def test_tensors_in_the_order_of_the_file(good: _core.GGUFFile) -> None:
    found = [(t.name, t.dtype, t.shape, t.n_bytes, t.split) for t in good.tensors]
    assert found == [
        ("token_embd.weight", "F32", (32, 2), 256, 0),
        ("blk.0.attn_q.weight", "Q8_0", (32, 3), 102, 0),
        ("blk.0.attn_k.weight", "Q4_0", (64, 1, 1, 2), 72, 0),
        ("blk.0.ffn_up.weight", "Q4_K", (256,), 144, 0),
        ("scalar", "F16", (), 2, 0),
    ]
    assert [t.n_elements for t in good.tensors] == [64, 96, 128, 256, 1]


def test_tensor_data_is_the_file_at_its_offset(good: _core.GGUFFile) -> None:
    raw = Path(good.path).read_bytes()
    for tensor, written in zip(good.tensors, good_tensors(), strict=True):
        assert tensor.offset % 32 == 0
        data = good.tensor_bytes(tensor.name)
        assert data.tobytes() == written.data
        assert data.tobytes() == raw[tensor.offset : tensor.offset + tensor.n_bytes]


def test_dequantize_gives_numpy_order(good: _core.GGUFFile) -> None:
    embedding = good.dequantize("token_embd.weight")
    assert embedding.dtype == np.float32
    assert np.array_equal(embedding, np.arange(64, dtype=np.float32).reshape(2, 32))
    keys = good.dequantize("blk.0.attn_k.weight")
    assert keys.shape == (2, 1, 1, 64)
    assert good.dequantize("scalar").shape == ()
    assert good.dequantize("scalar") == 1.0


def test_views_are_read_only_and_keep_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    file = _core.GGUFFile(write(path, good_file()))
    view = file.tensor_bytes("token_embd.weight")
    info = file.tensors[0]
    del file
    path.unlink()
    gc.collect()
    assert view.tobytes() == good_tensors()[0].data
    assert info.name == "token_embd.weight"
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 1


def test_unknown_tensor_is_a_key_error(good: _core.GGUFFile) -> None:
    with pytest.raises(KeyError, match=r"no\.such"):
        good.tensor_bytes("no.such")
    with pytest.raises(KeyError, match=r"no\.such"):
        good.dequantize("no.such")


@pytest.mark.parametrize("alignment", [8, 64, 4096])
def test_honours_the_alignment(tmp_path: Path, alignment: int) -> None:
    data = gguf_bytes(
        [entry("general.alignment", UINT32, alignment)], good_tensors(), alignment=alignment
    )
    file = _core.GGUFFile(write(tmp_path / "a.gguf", data))
    assert all(t.offset % alignment == 0 for t in file.tensors)
    assert [file.tensor_bytes(t.name).tobytes() for t in file.tensors] == [
        t.data for t in good_tensors()
    ]


def test_a_vocabulary_alone_needs_no_tensors(tmp_path: Path) -> None:
    data = gguf_bytes([array("tokens", STRING, ["a", "b"])])
    assert _core.GGUFFile(write(tmp_path / "a.gguf", data)).tensors == []


def test_reads_what_the_package_writes(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    weights = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(3)
    writer.add_token_list(["a", "b"])
    writer.add_token_scores([0.5, -1.0])
    writer.add_tensor("w", weights)
    writer.add_tensor(
        "q",
        gguf.quants.quantize(weights, gguf.GGMLQuantizationType.Q4_0),
        raw_dtype=gguf.GGMLQuantizationType.Q4_0,
    )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = _core.GGUFFile(path)
    assert file.get("llama.block_count") == 3
    assert file.get("tokenizer.ggml.tokens") == ["a", "b"]
    assert file.get("tokenizer.ggml.scores").tolist() == [0.5, -1.0]
    assert np.array_equal(file.dequantize("w"), weights)
    assert file.tensors[1].shape == (64, 4)
    assert np.abs(file.dequantize("q") - weights).max() < 0.5


@pytest.mark.parametrize("name", ["gpt-2", "llama-spm", "qwen2"])
def test_reads_real_vocabularies(name: str) -> None:
    shared = Path(__file__).parents[3] / "shared" / "reference" / "tokenizer"
    path = shared / f"ggml-vocab-{name}.gguf"
    if not path.exists():
        pytest.skip("the shared reference folder is not beside the repository")
    file, package = _core.GGUFFile(path), gguf.GGUFReader(path)
    for key in file.keys():  # noqa: SIM118
        ours, theirs = file.get(key), package.get_field(key).contents()
        assert (ours.tolist() if isinstance(ours, np.ndarray) else ours) == theirs


def test_opening_does_not_depend_on_the_size_of_the_data(tmp_path: Path) -> None:
    """A 250 MB model with 262,144 tokens opens in well under 0.1 s; the file is sparse."""
    tokens = [f"token{i}" for i in range(262_144)]
    row = 65_536
    n_rows = 1024
    big = Tensor("w", [row, n_rows], F32, b"")
    path = tmp_path / "big.gguf"
    with path.open("wb") as out:
        out.write(gguf_bytes([array("tokens", STRING, tokens)], [big]))
        out.truncate(out.tell() + 4 * row * n_rows)
    started = time.perf_counter()
    file = _core.GGUFFile(path)
    seconds = time.perf_counter() - started
    assert file.tensors[0].n_bytes == 4 * row * n_rows
    assert file.get("tokens") == tokens
    assert seconds < 0.5, "far above the usual few milliseconds, to spare a busy machine"


def split_entries(number: int, count: int, n_tensors: int) -> list[bytes]:
    return [
        entry("split.no", UINT16, number),
        entry("split.count", UINT16, count),
        entry("split.tensors.count", INT32, n_tensors),
    ]


def write_split(
    folder: Path, names: list[list[str]], *, n_tensors: int | None = None, count: int | None = None
) -> list[Path]:
    """A model split over files of tensors with these names; the value tells them apart."""
    total = sum(map(len, names)) if n_tensors is None else n_tensors
    paths = []
    for number, part in enumerate(names):
        entries = split_entries(number, len(names) if count is None else count, total)
        if number == 0:
            entries.append(entry("general.architecture", STRING, "toy"))
        tensors = [Tensor(n, [8], F32, struct.pack("<f", number) * 8) for n in part]
        paths.append(folder / f"toy-{number + 1:05d}-of-{len(names):05d}.gguf")
        paths[-1].write_bytes(gguf_bytes(entries, tensors))
    return paths


def test_split_model_is_one_model(tmp_path: Path) -> None:
    paths = write_split(tmp_path, [["a", "b"], [], ["c"]])
    file = _core.GGUFFile(paths[0])
    assert file.n_splits == 3
    assert file.file_bytes == sum(p.stat().st_size for p in paths)
    assert file.get("general.architecture") == "toy"
    assert [(t.name, t.split) for t in file.tensors] == [("a", 0), ("b", 0), ("c", 2)]
    assert file.dequantize("c").tolist() == [2.0] * 8


def test_split_model_written_by_the_package(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama", split_max_tensors=2)
    tensors = {f"t{i}": np.full((2, 32), i, np.float32) for i in range(5)}
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = _core.GGUFFile(tmp_path / "m-00001-of-00003.gguf")
    assert file.n_splits == 3
    for name, tensor in tensors.items():
        assert np.array_equal(file.dequantize(name), tensor)


def test_split_parts_are_found_beside_a_symbolic_link(tmp_path: Path) -> None:
    """A hub's cache keeps parts under hashed names and links to them."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    for path in write_split(blobs, [["a"], ["b"]]):
        stored = path.rename(blobs / f"hash{path.name[4:9]}")
        (snapshot / path.name).symlink_to(stored)
    assert len(_core.GGUFFile(snapshot / "toy-00001-of-00002.gguf").tensors) == 2


def test_one_part_of_one_needs_no_special_name(tmp_path: Path) -> None:
    data = gguf_bytes(split_entries(0, 1, 0))
    assert _core.GGUFFile(write(tmp_path / "plain.gguf", data)).n_splits == 1


def test_a_later_part_names_the_first(tmp_path: Path) -> None:
    paths = write_split(tmp_path, [["a"], ["b"]])
    with pytest.raises(ModelFormatError, match=r"part 2 of 2 .* open .*toy-00001-of-00002\.gguf"):
        _core.GGUFFile(paths[1])


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    paths = write_split(tmp_path, [["a"], ["b"], ["c"]])
    paths[2].unlink()
    with pytest.raises(ModelFormatError, match=r"toy-00003-of-00003\.gguf.*missing"):
        _core.GGUFFile(paths[0])


def test_a_renamed_first_part_is_told_its_name(tmp_path: Path) -> None:
    renamed = write_split(tmp_path, [["a"], ["b"]])[0].rename(tmp_path / "renamed.gguf")
    with pytest.raises(ModelFormatError, match=r'must end in "-00001-of-00002\.gguf"'):
        _core.GGUFFile(renamed)


def test_parts_of_different_models_are_refused(tmp_path: Path) -> None:
    paths = write_split(tmp_path, [["a"], ["b"]])
    paths[1].write_bytes(gguf_bytes(split_entries(0, 2, 2)))
    with pytest.raises(ModelFormatError, match=r"00002-of-00002.*part 1 of 2, expected part 2 of"):
        _core.GGUFFile(paths[0])


def test_a_wrong_number_of_tensors_is_refused(tmp_path: Path) -> None:
    paths = write_split(tmp_path, [["a"], ["b"]], n_tensors=3)
    with pytest.raises(ModelFormatError, match=r'"split\.tensors\.count" at byte .* claims 3 .*2'):
        _core.GGUFFile(paths[0])


def test_a_tensor_in_two_parts_is_refused(tmp_path: Path) -> None:
    paths = write_split(tmp_path, [["a"], ["a"]])
    with pytest.raises(ModelFormatError, match=r'00002-of-00002.*tensor "a" at byte .*already'):
        _core.GGUFFile(paths[0])


@pytest.mark.parametrize(("number", "count"), [(2, 2), (0, 65_536)])
def test_impossible_split_places_are_refused(tmp_path: Path, number: int, count: int) -> None:
    data = gguf_bytes([entry("split.no", UINT32, number), entry("split.count", UINT32, count)])
    with pytest.raises(ModelFormatError, match=r'"split\.count" at byte'):
        _core.GGUFFile(write(tmp_path / "a.gguf", data))


def test_a_split_number_that_is_no_integer_is_refused(tmp_path: Path) -> None:
    data = gguf_bytes([entry("split.no", BOOL, True), entry("split.count", UINT16, 2)])
    with pytest.raises(ModelFormatError, match=r'"split\.no" at byte 24: expected an integer'):
        _core.GGUFFile(write(tmp_path / "a.gguf", data))
