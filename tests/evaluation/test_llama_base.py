"""Files in llama-perplexity's format that are made here; a real one in ``test_comparison``."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evaluation import llama_file
from longbow_quarrel.errors import LogitsBaseError
from longbow_quarrel.evaluation.compact import log_softmax
from longbow_quarrel.evaluation.comparison import open_base
from longbow_quarrel.evaluation.llama_base import LlamaBase, log_probs

N_CTX = 16


def make(path: Path, vocab_size: int) -> tuple[np.ndarray, list[np.ndarray]]:
    draw = np.random.default_rng(vocab_size)
    tokens = draw.integers(0, vocab_size, (3, N_CTX))
    logits = [draw.standard_normal((7, vocab_size)) * 6 for _ in tokens]
    llama_file.write(path, N_CTX, vocab_size, tokens, logits)
    return tokens, logits


@pytest.mark.parametrize("vocab_size", [300, 301])  # an odd one is padded
def test_what_was_written_is_read(tmp_path: Path, vocab_size: int) -> None:
    tokens, logits = make(tmp_path / "base", vocab_size)
    base = open_base(tmp_path / "base")
    assert isinstance(base, LlamaBase)
    assert (base.n_ctx, base.vocab_size, base.n_chunks) == (N_CTX, vocab_size, 3)
    for i, chunk in enumerate(base.chunks()):
        assert chunk.start == i * N_CTX
        assert chunk.tokens.tolist() == tokens[i].tolist()
        assert chunk.positions.tolist() == list(range(8, 15))
        exact = log_softmax(logits[i])
        found = log_probs(chunk.rows, vocab_size)
        seen = exact > exact.max(axis=1, keepdims=True) - 16
        assert np.abs(found - exact)[seen].max() < 1.3e-4
        other = (logits[i] + np.random.default_rng(0).standard_normal(exact.shape) * 0.3).astype(
            np.float32
        )
        log_q = log_softmax(other)
        divergence = chunk.compare(0, other)
        expected = (np.exp(exact) * (exact - log_q)).sum(axis=1)
        np.testing.assert_allclose(divergence.kl, expected, atol=3e-4)
        targets = tokens[i][9:]
        np.testing.assert_allclose(divergence.losses, -log_q[np.arange(7), targets])
        part = chunk.compare(3, other[3:5])
        assert part.kl.tolist() == divergence.kl[3:5].tolist()


def test_a_row_without_any_spread(tmp_path: Path) -> None:
    """llama-perplexity writes scale zero there."""
    tokens = np.zeros((1, N_CTX), np.int32)
    llama_file.write(tmp_path / "base", N_CTX, 10, tokens, [np.ones((7, 10))])
    [chunk] = LlamaBase(tmp_path / "base").chunks()
    assert chunk.compare(0, np.zeros((7, 10), np.float32)).kl == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("n_cut", [1, 600, 3000, 10_000])
def test_a_file_that_was_cut_short(tmp_path: Path, n_cut: int) -> None:
    path = tmp_path / "base"
    make(path, 300)
    path.write_bytes(path.read_bytes()[:-n_cut])
    with pytest.raises(LogitsBaseError, match="cut short"):
        LlamaBase(path)


@pytest.mark.parametrize("n", [0, 5, 8, 12, 19, 20])
def test_a_header_that_was_cut_short(tmp_path: Path, n: int) -> None:
    path = tmp_path / "base"
    make(path, 300)
    path.write_bytes(path.read_bytes()[:n])
    with pytest.raises(LogitsBaseError):
        open_base(path)


def planted(path: Path, at: int, kind: str, value: float) -> None:
    data = bytearray(path.read_bytes())
    data[at : at + 4] = np.array([value], kind).tobytes()
    path.write_bytes(bytes(data))


ROWS = 20 + 3 * N_CTX * 4


@pytest.mark.parametrize(
    ("at", "kind", "value", "part"),
    [
        (8, "<i4", -4, "out of range"),
        (8, "<i4", 3, "out of range"),
        (8, "<i4", 2**31 - 1, "belong"),
        (12, "<i4", 0, "out of range"),
        (12, "<i4", 2**31 - 1, "belong"),
        (16, "<i4", 4, "belong"),
        (20, "<i4", 300, "not in the vocabulary"),
        (20, "<i4", -1, "not in the vocabulary"),
        (ROWS, "<f4", float("nan"), "scale"),
        (ROWS, "<f4", -1.0, "scale"),
        (ROWS + 4, "<f4", float("-inf"), "scale"),
        (ROWS + 4, "<f4", 3.0, "above one"),
    ],
)
def test_numbers_that_make_no_sense(
    tmp_path: Path, at: int, kind: str, value: float, part: str
) -> None:
    path = tmp_path / "base"
    make(path, 300)
    planted(path, at, kind, value)
    with pytest.raises(LogitsBaseError, match=part) as error:
        list(LlamaBase(path).chunks())
    assert "\n" not in str(error.value)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_damage_is_refused_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "base"
    if not path.exists():
        make(path, 300)
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.one_of(st.integers(8, 30), st.integers(8, len(whole) - 1)))
        whole[at] = data.draw(st.integers(0, 255))
    other = path.with_name("other")
    other.write_bytes(whole[: data.draw(st.one_of(st.just(len(whole)), st.integers(8, 2000)))])
    with suppress(LogitsBaseError):
        base = LlamaBase(other)
        for chunk in base.chunks():
            found = chunk.compare(0, np.zeros((len(chunk.positions), base.vocab_size), np.float32))
            assert np.isfinite(found.kl).all()
