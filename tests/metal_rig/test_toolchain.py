"""Missing packages are named at once: a skip, and an error where CI is "true"."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from metal_rig import toolchain

HERE = Path(__file__).parent


def run_pytest(file: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a test file where no program but Python can be found."""
    clean = {k: v for k, v in os.environ.items() if k not in ("CI", "PATH")}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rsf", "-p", "no:cacheprovider", str(HERE / file)],
        env=clean | {"PATH": "/nowhere"} | environment,
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@pytest.mark.skipif(toolchain.why_not(()) is not None, reason="the rig needs Linux on x86-64")
def test_a_missing_package_skips_with_the_remedy() -> None:
    result = run_pytest("test_lint.py")
    assert result.returncode == 0
    assert "needs clang-19: run `sudo apt-get install" in result.stdout
    assert "passed" not in result.stdout


@pytest.mark.skipif(toolchain.why_not(()) is not None, reason="the rig needs Linux on x86-64")
def test_in_ci_a_missing_package_is_an_error() -> None:
    result = run_pytest("test_lint.py", CI="true")
    assert result.returncode == 1
    assert "needs clang-19: run `sudo apt-get install" in result.stdout


def test_a_build_is_done_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METAL_RIG_CACHE", str(tmp_path))
    monkeypatch.setattr(toolchain, "compiler_key", lambda: "a compiler")
    source = tmp_path / "source"
    source.write_text("1")
    command = [
        sys.executable,
        "-c",
        "import sys, time; open(sys.argv[1], 'w').write(str(time.time_ns()))",
    ]
    first = toolchain.build("result", [*command, "{output}"], [source])
    text = first.read_text()
    assert toolchain.build("result", [*command, "{output}"], [source]).read_text() == text
    source.write_text("2")
    assert toolchain.build("result", [*command, "{output}"], [source]) != first


def test_a_failed_build_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METAL_RIG_CACHE", str(tmp_path))
    monkeypatch.setattr(toolchain, "compiler_key", lambda: "a compiler")
    command = [sys.executable, "-c", "raise SystemExit('a reason')"]
    with pytest.raises(RuntimeError, match="a reason"):
        toolchain.build("result", command, [])
