"""Running the command line: in this process, or as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli.running import Result, Run, Start, heed_interrupts
from longbow_quarrel.cli import main


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QUARREL_CACHE_DIR", str(tmp_path / "cache"))

    def run(*arguments: object) -> Result:
        code = main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        return Result(code, out, err)

    return run


COMMAND = (sys.executable, "-m", "longbow_quarrel.cli")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a command as a process, in an empty folder, with pipes on all three streams."""
    started: list[subprocess.Popen[bytes]] = []

    def popen(
        *arguments: object, env: dict[str, str] | None = None, **options: object
    ) -> subprocess.Popen[bytes]:
        prepare = options.pop("preexec_fn", None)

        def before_exec() -> None:
            heed_interrupts()
            if callable(prepare):
                prepare()

        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            cwd=tmp_path,
            env=os.environ | {"QUARREL_CACHE_DIR": str(tmp_path / "cache")} | (env or {}),
            preexec_fn=before_exec,
            **(pipes | options),  # type: ignore[call-overload]
        )
        started.append(process)
        return process

    yield popen
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def process(start: Start) -> Run:
    """Run a command as a process, ``input`` on its standard input, to its end."""

    def run(*arguments: object, input: str = "", **options: object) -> Result:
        out, err = (p := start(*arguments, **options)).communicate(input.encode(), timeout=120)
        return Result(p.returncode, (out or b"").decode(), (err or b"").decode())

    return run


@pytest.fixture
def llama3(tiny_model_path: Callable[[str], Path]) -> Path:
    """Has a chat template; greedily it never ends."""
    return tiny_model_path("llama3")


@pytest.fixture
def gemma3(tiny_model_path: Callable[[str], Path]) -> Path:
    """Has no chat template."""
    return tiny_model_path("gemma3")
