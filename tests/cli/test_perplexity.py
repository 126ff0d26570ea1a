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


def test_predictions_are_kept_and_compared(cli: Run, gemma3: Path, text: Path) -> None:
    arguments = ("perplexity", "-m", gemma3, "--json")
    made = ("-f", text, "-c", 64, "--chunks", 4, "--logits-out", "base", "--logits-chunks", 3)
    whole = json.loads(cli(*arguments, *made).out)
    assert (
        whole["perplexity"] == perplexity(LLM(gemma3).engine, TEXT, n_ctx=64, n_chunks=4).perplexity
    )
    answer = json.loads(cli(*arguments, "--against", "base").out)
    assert answer["n_rows"] == 3 * 31
    assert abs(answer["kl_mean"]) < 1e-7
    assert answer["same_top"] == 1
    assert sum(part["n_rows"] for part in answer["by_depth"]) == answer["n_rows"]
    assert answer["against"]["n_ctx"] == 64
    same = ("-f", text, "-c", 64, "--chunks", 3, "--against", "base")
    assert json.loads(cli(*arguments, *same).out) == answer
    rough = ("-ctk", "q4_0", "-ctv", "q4_0")
    assert json.loads(cli(*arguments, "--against", "base", *rough).out)["kl_mean"] > 1e-6
    table = cli(*arguments[:3], "--against", "base", *rough)
    assert table.err == ""
    for part in ("KL divergence from base", "for certain", "33-39", "33-63", "same top"):
        assert part in table.out


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (("--against", "missing"), 1, "missing cannot be read"),
        (("--against", "text"), 1, "holds no predictions"),
        (("--against", "base", "--logits-out", "other"), 2, "one after the other"),
        (("--against", "base", "-c", 32), 2, "chunks of 64 tokens, not 32"),
        (("--against", "base", "-f", "other"), 2, "another text"),
        (("-f", "text", "--logits-chunks", 2), 2, "--logits-out"),
        (("-f", "text", "--logits-out", "b", "--logits-chunks", 0), 2, "at least 1"),
        (("-f", "text", "-c", 64, "--logits-out", "no/where"), 1, "cannot be written"),
        (("--against", "base", "--chunks", 0), 2, "--chunks must be at least 1"),
        ((), 2, "-f FILE"),
    ],
)
def test_misuse_of_predictions(
    cli: Run, gemma3: Path, text: Path, arguments: tuple[object, ...], code: int, part: str
) -> None:
    common = ("perplexity", "-m", gemma3)
    cli(*common, "-f", text, "-c", 64, "--chunks", 2, "--logits-out", "base")
    text.with_name("other").write_text("Something else. " * 60)
    result = cli(*common, *arguments)
    assert (result.code, result.out) == (code, "")
    assert part in result.err
    assert result.err.count("\n") == 1


def test_a_base_that_was_cut_short(cli: Run, gemma3: Path, text: Path) -> None:
    common = ("perplexity", "-m", gemma3)
    cli(*common, "-f", text, "-c", 64, "--chunks", 2, "--logits-out", "base")
    base = text.with_name("base")
    base.write_bytes(base.read_bytes()[:-100])
    result = cli(*common, "--against", "base")
    assert (result.code, result.out, result.err.count("\n")) == (1, "", 1)
    assert "checksum" in result.err


def test_a_text_is_needed(cli: Run, llama3: Path, tmp_path: Path) -> None:
    result = cli("perplexity", "-m", llama3)
    assert result.code == 2
    assert "-f" in result.err
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    result = cli("perplexity", "-m", llama3, "-f", "latin")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "UTF-8" in result.err
