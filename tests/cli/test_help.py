"""Help, version, and that flags and configuration agree."""

from __future__ import annotations

import time

import pytest

import longbow_quarrel
from cli.running import Run
from longbow_quarrel.cli.options import flag_names
from longbow_quarrel.config import EngineConfig, GenerationConfig, SourceConfig

COMMANDS = ("generate", "chat", "info", "models", "pull", "perplexity", "bench", "compare-caches")


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help_lists_the_commands(cli: Run, arguments: tuple[str, ...]) -> None:
    result = cli(*arguments)
    assert result.code == 0
    for command in COMMANDS:
        assert f"  {command} " in result.out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(cli: Run, command: str) -> None:
    result = cli(command, "--help")
    assert result.code == 0
    assert result.out.startswith(f"Usage: longbow-quarrel {command} ")


def test_every_field_has_a_flag_with_its_description(cli: Run) -> None:
    text = cli("generate", "--help").out
    words = " ".join(text.split())
    for section in (EngineConfig, GenerationConfig, SourceConfig):
        for name, field in section.model_fields.items():
            for flag in flag_names(name):
                assert flag.replace("/", " / ") in text
            assert field.description is not None
            assert field.description.rstrip(".") in words.replace("- ", "-")


def test_version(cli: Run) -> None:
    assert cli("--version").out == f"longbow-quarrel {longbow_quarrel.__version__}\n"


def test_help_loads_nothing_heavy(process: Run) -> None:
    # Seconds depend on the machine; what is loaded does not.
    result = process("--help", env={"PYTHONPROFILEIMPORTTIME": "1"})
    loaded = {line.rpartition("|")[2].strip() for line in result.err.splitlines()}
    assert "typer" in loaded
    heavy = (
        "numpy",
        "jinja2",
        "tokenizers",
        "huggingface_hub",
        "longbow_quarrel._core",
        "requests",
    )
    assert loaded.isdisjoint(heavy)


def test_help_is_quick(process: Run) -> None:
    def seconds() -> float:
        started = time.perf_counter()
        process("--help")
        return time.perf_counter() - started

    assert min(seconds() for _ in range(3)) < 2.0  # 0.3 s on an idle machine
