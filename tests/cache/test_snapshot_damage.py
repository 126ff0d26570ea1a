"""Files that are damaged, foreign or half written are refused by name and leave no trace."""

from __future__ import annotations

import os
import resource
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cache.stores import HostStore
from longbow_quarrel import LLM, EngineConfig, SamplingParams, _core
from longbow_quarrel.cache import make_cache
from longbow_quarrel.errors import SnapshotError

IDENTITY = [("model", "one (abc)"), ("kv_type_k", "f16")]
BLOCK = 4


class Filled:
    """A hybrid paged cache with two texts in it, and its memory."""

    def __init__(self, *, fill: bool = True) -> None:
        self.cache = make_cache("paged", groups=[5, 0], block_size=BLOCK, n_blocks=[16, 32])
        self.store = HostStore([24, 40], [16, 32])
        if not fill:
            return
        for first in (0, 100):
            tokens = np.arange(first, first + 14, dtype=np.int32)
            sequence = self.cache.match_prefix(tokens, 20).sequence
            assert self.cache.reserve(sequence, 14)
            for group, table in enumerate(self.cache.block_tables(sequence)):
                for block in table:
                    self.store.randomise(group, block)
            self.cache.commit(sequence, tokens)
            self.cache.release(sequence)

    def save(self, path: Path) -> None:
        _core.save_prefix_cache(str(path), self.cache, self.store, IDENTITY)

    def load(self, path: Path, identity: list[tuple[str, str]] = IDENTITY):
        return _core.load_prefix_cache(str(path), self.cache, self.store, identity)

    def is_empty(self) -> bool:
        stats = self.cache.stats()
        self.cache.check_invariants()
        return stats.n_used_blocks + stats.n_cached_blocks + stats.n_evicted_blocks == 0

    def contents(self) -> dict[tuple[int, ...], list[bytes]]:
        """What a reader of each text would see."""
        seen = {}
        for first in (0, 100):
            for end in (5, 9, 13):
                prompt = np.arange(first, first + end, dtype=np.int32)
                match = self.cache.match_prefix(prompt, 20)
                seen[first, end, match.n_tokens] = [
                    self.store.read_block(group, block)
                    for group, table in enumerate(self.cache.block_tables(match.sequence))
                    for block in table
                    if block >= 0
                ]
                self.cache.release(match.sequence)
        return seen


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("snapshot") / "good.kv"
    Filled().save(path)
    return path


def test_a_good_file_gives_everything_back(saved):
    other = Filled(fill=False)
    taken = other.load(saved)
    assert taken.n_tokens == 24
    original = Filled()  # the store's bytes are random but seeded
    assert other.contents() == original.contents()


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_flipped_byte_and_no_cut_goes_unnoticed(saved, tmp_path, data):
    good = saved.read_bytes()
    bad = bytearray(good)
    kind = data.draw(st.sampled_from(["flip", "cut", "grow", "swap"]))
    at = data.draw(st.integers(0, len(good) - 1))
    if kind == "flip":
        bad[at] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        del bad[at:]
    elif kind == "grow":
        bad += bytes(at + 1)
    else:  # two pieces change places
        other, n = data.draw(st.integers(0, len(good) - 1)), data.draw(st.integers(1, 64))
        bad[at : at + n], bad[other : other + n] = bad[other : other + n], bad[at : at + n]
    path = tmp_path / "bad.kv"
    path.write_bytes(bad)
    target = Filled(fill=False)
    if bytes(bad) == good:
        target.load(path)
        return
    with pytest.raises(SnapshotError, match=r"bad\.kv "):
        target.load(path)
    assert target.is_empty()


def _sections(good: bytes) -> dict[str, int]:
    """A place inside each section; see docs/kv-cache.md."""
    n_header = struct.unpack_from("<I", good, 12)[0]
    n_texts = struct.unpack_from("<Q", good, 32)[0]
    texts_end = n_header + n_texts * (20 + 4 * BLOCK) + 8
    return {
        "header": 40,
        "texts": n_header + 5,
        "block 0": texts_end + 3,
        "block 9": len(good) - 3,
    }


def test_damage_is_named_by_its_section(saved, tmp_path):
    good = saved.read_bytes()
    n_blocks = struct.unpack_from("<Q", good, 40)[0]
    for section, at in _sections(good).items():
        name = section.replace("9", str(n_blocks - 1))
        bad = bytearray(good)
        bad[at] ^= 1
        (tmp_path / "bad.kv").write_bytes(bad)
        target = Filled(fill=False)
        with pytest.raises(SnapshotError, match=rf"damaged \({name}: .*delete it and save again"):
            target.load(tmp_path / "bad.kv")
        assert target.is_empty()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b"GGUF" + b[4:], "is no saved KV cache; give a file"),
        (lambda _: b"", "is no saved KV cache"),
        (lambda b: b[:9], "was cut short"),
        (lambda b: b[:-1], r"it has \d+ of \d+ bytes"),
        (lambda b: b[:8] + b"\x02\0\0\0" + b[12:], "format version 2 .* reads version 1; save it"),
    ],
)
def test_other_files_are_refused_by_name(change, message, saved, tmp_path):
    (tmp_path / "bad.kv").write_bytes(change(saved.read_bytes()))
    target = Filled(fill=False)
    with pytest.raises(SnapshotError, match=message):
        target.load(tmp_path / "bad.kv")
    assert target.is_empty()


def test_missing_files_and_folders_are_named(tmp_path):
    target = Filled()
    with pytest.raises(SnapshotError, match=r"none\.kv cannot be read \(No such file"):
        target.load(tmp_path / "none.kv")
    with pytest.raises(SnapshotError, match="no plain file"):
        target.load(tmp_path)
    with pytest.raises(SnapshotError, match=r"cannot be written \(No such file"):
        target.save(tmp_path / "none" / "x.kv")
    with pytest.raises(SnapshotError, match="no plain file"):
        target.save(tmp_path)


def test_what_differs_is_named(saved):
    target = Filled(fill=False)
    with pytest.raises(SnapshotError, match=r"model one \(abc\) but this engine has two; use"):
        target.load(saved, [("model", "two"), IDENTITY[1]])
    with pytest.raises(SnapshotError, match="kv_type_k f16 but this engine has f32"):
        target.load(saved, [IDENTITY[0], ("kv_type_k", "f32")])
    with pytest.raises(SnapshotError, match="another version of this engine"):
        target.load(saved, IDENTITY[:1])
    other = Filled(fill=False)
    other.store = HostStore([24, 48], [16, 32])
    with pytest.raises(SnapshotError, match="another shape"):
        other.load(saved)
    assert target.is_empty()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"model": "qwen3"}, "was saved with model"),
        ({"kv_type_k": "f32"}, "kv_type_k f16 but this engine has f32; use the same kv_type_k"),
        ({"kv_type_v": "f32"}, "kv_type_v"),
        ({"block_size": 32}, "block_size 16 but this engine has 32"),
        ({"cache": "sliding_window", "window": 32}, "attention mask"),
    ],
)
def test_files_of_another_engine_are_refused_by_name(other, message, tiny_model_path, tmp_path):
    def load(model: str = "llama3", **config: object) -> LLM:
        common = {"cache": "paged", "context_length": 128, "n_threads": 1}
        return LLM(tiny_model_path(model), config=EngineConfig(**(common | config)))

    first = load()
    first.generate([[5] * 40], SamplingParams(max_tokens=1))
    first.save_prefix_cache(tmp_path / "all.kv")
    first.save_sequence(tmp_path / "one.kv", [5] * 40)
    second = load(**other)
    with pytest.raises(SnapshotError, match=message):
        second.load_prefix_cache(tmp_path / "all.kv")
    with pytest.raises(SnapshotError, match=message):
        second.load_sequence(tmp_path / "one.kv")
    with pytest.raises(SnapshotError, match="does not hold a saved prefix cache"):
        first.load_prefix_cache(tmp_path / "one.kv")
    with pytest.raises(SnapshotError, match="does not hold one saved sequence"):
        first.load_sequence(tmp_path / "all.kv")
    assert second.stats()["cache"]["n_cached_blocks"] == 0
    assert second.stats()["memory"]["by_kind"]["snapshots"] == 0


def test_a_model_is_known_by_its_content_not_by_its_path(tiny_model_path, tmp_path):
    def load(path: Path) -> LLM:
        return LLM(path, config=EngineConfig(context_length=128, n_threads=1))

    first = load(tiny_model_path("llama3"))
    first.save_sequence(tmp_path / "one.kv", [5] * 20)
    model = bytearray(tiny_model_path("llama3").read_bytes())
    (tmp_path / "copy.gguf").write_bytes(model)
    assert len(load(tmp_path / "copy.gguf").load_sequence(tmp_path / "one.kv").token_ids) == 20
    model[-100] ^= 1  # one bit of one weight
    (tmp_path / "tuned.gguf").write_bytes(model)
    with pytest.raises(SnapshotError, match="was saved with model"):
        load(tmp_path / "tuned.gguf").load_sequence(tmp_path / "one.kv")


# ---- Writing ---------------------------------------------------------------------------------


def test_a_full_disk_leaves_the_old_file(saved, tmp_path):
    """A limit on file sizes stands in for the disk: the write fails in the middle."""
    path = tmp_path / "cache.kv"
    path.write_bytes(saved.read_bytes())
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
            Filled().save(path)
        except SnapshotError as e:
            named = "cannot be written" in str(e) and "nothing was saved" in str(e)
            code = 0 if named else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert path.read_bytes() == saved.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["cache.kv"]


KILLED = """
import sys, numpy as np
sys.path[:0] = [sys.argv[2]]
from cache.test_snapshot_damage import Filled
filled = Filled()
class Slow(type(filled.store)):
    def read_block(self, group, block):
        print("writing", flush=True)
        import time; time.sleep(0.2)
        return super().read_block(group, block)
filled.store.__class__ = Slow
import pathlib
filled.save(pathlib.Path(sys.argv[1]))
"""


def test_a_killed_writer_leaves_the_old_file(saved, tmp_path):
    path = tmp_path / "cache.kv"
    path.write_bytes(saved.read_bytes())
    tests = str(Path(__file__).parents[1])
    writer = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path), tests], stdout=subprocess.PIPE
    )
    assert writer.stdout is not None
    with writer.stdout:
        for _ in range(3):  # some blocks are on the disk
            assert writer.stdout.readline() == b"writing\n"
        with pytest.raises(SnapshotError, match="being written by another process"):
            Filled().save(path)
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait(timeout=60)
    assert path.read_bytes() == saved.read_bytes()
    assert Filled(fill=False).load(path).n_blocks > 0
    assert (tmp_path / "cache.kv.partial").exists()
    with pytest.raises(SnapshotError):
        Filled(fill=False).load(tmp_path / "cache.kv.partial")
    Filled().save(path)  # the next writer takes it over
    assert [p.name for p in tmp_path.iterdir()] == ["cache.kv"]


def test_a_saved_file_is_its_owners_alone(saved, tmp_path):
    """K and V tell what was said. And the same cache gives the same bytes."""
    path = tmp_path / "cache.kv"
    for _ in range(2):
        Filled().save(path)
        assert path.read_bytes() == saved.read_bytes()
        assert oct(path.stat().st_mode & 0o777) == "0o600"
