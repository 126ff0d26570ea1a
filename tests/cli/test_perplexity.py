"""``perplexity``: the figures are the evaluation's, the misuse is explained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.running import Run
from longbow_quarrel import LLM
from longbow_quarrel.evaluation.perplexity import perplexity

TEXT = "Keys and values of every token stay in the cache. " * 40


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "text").write_text(TEXT)
    return tmp_path / "text"


def test_figures(cli: Run, gemma3: Path, text: Path) -> None:
    arguments = ("perplexity", "-m", gemma3, "-f", text, "-c", 64, "--chunks", 2)
    answer = json.loads(cli(*arguments, "--json").out)
    expected = perplexity(LLM(gemma3).engine, TEXT, n_ctx=64, n_chunks=2)
    assert answer["perplexity"] == expected.perplexity
    assert answer["standard_error"] == expected.standard_error
    assert (answer["n_ctx"], answer["n_chunks"], answer["n_scored"]) == (64, 2, 62)
    assert answer["tokens_per_second"] > 0
    result = cli(*arguments)
    assert result.out.startswith(f"perplexity {expected.perplexity:.4f} +/- ")
    assert result.err == ""


def test_chunks_have_512_tokens_by_default(cli: Run, llama3: Path, text: Path) -> None:
    answer = json.loads(cli("perplexity", "-m", llama3, "-f", text, "--json").out)
    assert answer["n_ctx"] == 512


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--chunks", 0), "--chunks must be at least 1"),
        (("-c", 2), "at least 4"),
        (("-c", 5000), "10000 are needed"),
        (("-f", "missing"), "missing cannot be read"),
        (("-f", "/"), "cannot be read"),
        (("-n", 3), "-n"),
    ],
)
def test_misuse(cli: Run, llama3: Path, text: Path, arguments: tuple[object, ...], part: str):
    result = cli("perplexity", "-m", llama3, "-f", text, *arguments)
    assert (result.code, result.out) == (2, "")
    assert part in result.err
    assert result.err.count("\n") == 1


def test_a_text_is_needed(cli: Run, llama3: Path, tmp_path: Path) -> None:
    result = cli("perplexity", "-m", llama3)
    assert result.code == 2
    assert "-f" in result.err
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    result = cli("perplexity", "-m", llama3, "-f", "latin")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "UTF-8" in result.err
