"""A tiny model with a reference made here, by the script that makes the packaged ones."""

from __future__ import annotations

import random
import runpy
from pathlib import Path

import pytest

from cli.conftest import cli, process, start  # noqa: F401 (fixtures)

TESTS = Path(__file__).parents[1]
MODEL = TESTS / "data" / "models" / "gemma3.gguf"
N_CTX, LONG = 32, 96
PROMPTS = ("the cache holds", "of every token")


def made_text() -> str:
    draw = random.Random(7)
    words = ["the", "cache", "holds", "keys", "and", "values", "of", "every", "token", "é"]
    return " ".join(draw.choice(words) for _ in range(100))


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny.json, beside tiny.logits and the text."""
    folder = tmp_path_factory.mktemp("reference")
    (folder / "text.txt").write_text(made_text(), encoding="utf-8")
    script = runpy.run_path(str(TESTS / "data" / "make_validation_reference.py"))
    script["Maker"](MODEL, "tiny", made_text(), N_CTX, LONG).write(folder, PROMPTS)
    return folder / "tiny.json"
