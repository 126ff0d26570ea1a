"""docs/configuration.md is what the code says."""

from __future__ import annotations

from pathlib import Path

import pytest

from longbow_quarrel.cli.options import flag_names
from longbow_quarrel.cli.reference import markdown
from longbow_quarrel.config import SECTIONS, EngineConfig, GenerationConfig, SourceConfig

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_the_page_is_the_code() -> None:
    assert PAGE.read_text(encoding="utf-8") == markdown(), (
        "refresh it: python -m longbow_quarrel.cli.reference > docs/configuration.md"
    )


def test_every_option_has_a_row() -> None:
    rows = [line for line in markdown().splitlines() if line.startswith("| `")]
    for section in SECTIONS:
        for name, field in section.model_fields.items():
            [row] = [r for r in rows if r.startswith(f"| `{name}` |")]
            assert f"`QUARREL_{name.upper()}`" in row
            assert all(f"`{flag}`" in row for flag in flag_names(name))
            assert field.description is not None
            assert field.description in row
            assert len(row.replace("\\|", "").split("|")) == 8


def test_the_example_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = markdown().split("```toml\n")[1].split("```")[0]
    (tmp_path / "quarrel.toml").write_text(example)
    monkeypatch.chdir(tmp_path)
    config = EngineConfig.load()
    assert (config.cache, config.n_threads, config.kv_cache_memory) == ("paged", 8, 1 << 30)
    assert GenerationConfig.load().temperature == 0
    assert SourceConfig.load().model == "smollm2-135m"
