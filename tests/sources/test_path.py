"""Models given as paths."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from longbow_quarrel.errors import ModelNotFoundError
from longbow_quarrel.sources import path


def test_a_file_is_returned_as_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert path.resolve("m.gguf") == path.resolve("~/m.gguf") == path.resolve(str(file)) == file


def test_the_first_part_of_a_split_model_stands_for_all(tmp_path: Path):
    for number in (1, 2):
        (tmp_path / f"m-0000{number}-of-00002.gguf").write_bytes(b"GGUF")
    first = tmp_path / "m-00001-of-00002.gguf"
    assert path.resolve(str(first)) == first
    with pytest.raises(ModelNotFoundError, match=r"part 2 of 2 .*/m-00001-of-00002\.gguf"):
        path.resolve(str(tmp_path / "m-00002-of-00002.gguf"))


def test_a_directory_is_refused_and_looked_into(tmp_path: Path):
    with pytest.raises(ModelNotFoundError, match=r"directory without \.gguf files"):
        path.resolve(str(tmp_path))
    (tmp_path / "there.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelNotFoundError, match=r"is a directory: give .* there\.gguf"):
        path.resolve(str(tmp_path))


def test_a_missing_file_comes_with_a_hint(tmp_path: Path):
    with pytest.raises(ModelNotFoundError, match="catalogue name smollm2-135m"):
        path.resolve(str(tmp_path / "SmolLM2-135.gguf"), catalog_names=["smollm2-135m"])
    with pytest.raises(ModelNotFoundError, match=r"the directory .* does not exist either"):
        path.resolve(str(tmp_path / "no" / "x.gguf"))
    for name in ("llama-8b.gguf", *(f"other{number}.gguf" for number in range(9))):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(ModelNotFoundError, match=r"there is llama-8b\.gguf"):
        path.resolve(str(tmp_path / "llama8b.gguf"))
    with pytest.raises(ModelNotFoundError, match="and 5 more"):
        path.resolve(str(tmp_path / "x"))


def test_odd_things_are_refused(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(ModelNotFoundError, match="not a regular file"):
        path.resolve(str(tmp_path / "pipe.gguf"))
    with pytest.raises(ModelNotFoundError, match="NUL"):
        path.resolve("a\0b")
    with pytest.raises(ModelNotFoundError, match="unknown home directory"):
        path.resolve("~no-such-user-here/m.gguf")
    with pytest.raises(ModelNotFoundError):
        path.resolve("x" * 5000 + ".gguf")
