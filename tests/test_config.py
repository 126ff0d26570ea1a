from __future__ import annotations

import pytest

from longbow_quarrel.config import EngineConfig, GenerationConfig, SourceConfig, parse_size
from longbow_quarrel.errors import UsageError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("512", 512),
        ("1K", 1024),
        ("1KB", 1000),
        ("1KiB", 1024),
        ("512MiB", 512 << 20),
        ("1.5GiB", 3 << 29),
        ("2gb", 2_000_000_000),
        ("1 TiB", 1 << 40),
    ],
)
def test_sizes(text, n_bytes):
    assert parse_size(text) == n_bytes
    assert EngineConfig(kv_cache_memory=text).kv_cache_memory == n_bytes


@pytest.mark.parametrize("text", ["", "many", "1XB", "-1", "MiB", "0"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UsageError, match="kv_cache_memory"):
        EngineConfig(kv_cache_memory=text)


def test_unknown_keys_are_refused_with_a_hint():
    with pytest.raises(UsageError, match="no option 'block_sise'; did you mean 'block_size'"):
        EngineConfig(block_sise=16)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("block_size", 20),
        ("block_size", 0),
        ("n_threads", 0),
        ("kv_type_k", "q9_9"),
        ("device", "gpu"),
        ("max_num_seqs", 0),
        ("context_length", -5),
        ("window", 0),
        ("sinks", -1),
    ],
)
def test_values_out_of_range_are_refused_by_name(key, value):
    with pytest.raises(UsageError, match=rf"^{key}: .*, got {value!r}"):
        EngineConfig(**{key: value})


def test_precedence(tmp_path, monkeypatch):
    (tmp_path / "quarrel.toml").write_text('block_size = 32\nn_threads = 3\ncache = "contiguous"\n')
    monkeypatch.setenv("QUARREL_BLOCK_SIZE", "64")
    assert EngineConfig.load(block_size=128).block_size == 128
    assert EngineConfig.load().block_size == 64
    assert EngineConfig.load().n_threads == 3
    monkeypatch.setenv("QUARREL_WINDOW", "100")
    assert (EngineConfig.load().window, EngineConfig.load(sinks=0).sinks) == (100, 0)
    assert EngineConfig.load().max_num_seqs == EngineConfig().max_num_seqs


def test_arguments_alone_when_constructed(tmp_path, monkeypatch):
    (tmp_path / "quarrel.toml").write_text("block_size = 32\n")
    monkeypatch.setenv("QUARREL_N_THREADS", "3")
    assert EngineConfig() == EngineConfig(block_size=16, n_threads=None)


def test_every_section_reads_its_keys_of_one_file(tmp_path):
    (tmp_path / "quarrel.toml").write_text('model = "x.gguf"\ntemperature = 0.1\nn_threads = 5\n')
    assert SourceConfig.load().model == "x.gguf"
    assert GenerationConfig.load().temperature == 0.1
    assert EngineConfig.load().n_threads == 5


def test_file_named_by_the_environment(tmp_path, monkeypatch):
    (tmp_path / "other.toml").write_text("block_size = 48\n")
    monkeypatch.setenv("QUARREL_CONFIG", str(tmp_path / "other.toml"))
    assert EngineConfig.load().block_size == 48
    monkeypatch.setenv("QUARREL_CONFIG", str(tmp_path / "missing.toml"))
    with pytest.raises(UsageError, match=r"missing\.toml cannot be read"):
        EngineConfig.load()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("blok_size = 1\n", "unknown key 'blok_size'; did you mean 'block_size'"),
        ("block_size = \n", "cannot be read as configuration"),
        ('block_size = "x"\n', "block_size"),
    ],
)
def test_bad_files_are_refused(tmp_path, content, message):
    (tmp_path / "quarrel.toml").write_text(content)
    with pytest.raises(UsageError, match=message):
        EngineConfig.load()


def test_ollama_names_its_own_store(tmp_path, monkeypatch):
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path))
    assert SourceConfig.load().ollama_store == tmp_path
    monkeypatch.setenv("OLLAMA_MODELS", "")
    assert SourceConfig.load().ollama_store is None
