"""Software Metal: every rule and failure, through Objective-C++ compiled as the product is."""

from __future__ import annotations

import functools
import re
import subprocess
from pathlib import Path

import pytest

from metal_rig import toolchain
from metal_rig.framework.build import build_program

PACKAGES = toolchain.FRAMEWORK_PACKAGES
CASES = Path(__file__).parent / "framework" / "cases"
CASE_SECONDS = 40


def case_names(program: str) -> list[str]:
    """Read from the source, so that collecting tests needs no compiler."""
    text = (CASES / f"{program}.mm").read_text()
    return re.findall(
        r"CASE\((?!name\))(\w+)\)" if program == "behaviour" else r'^    \{"(\w+)",', text, re.M
    )


@functools.cache
def program(name: str) -> Path:
    return build_program(CASES / f"{name}.mm")


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program(name), *arguments],
        capture_output=True,
        text=True,
        timeout=CASE_SECONDS,
        check=False,
    )


@pytest.mark.parametrize("name", ["behaviour", "rules"])
def test_every_case_is_collected(name: str) -> None:
    assert run(name, "--list").stdout.split() == sorted(case_names(name))


@pytest.mark.parametrize("case", case_names("behaviour"))
def test_behaviour(case: str) -> None:
    result = run("behaviour", case)
    assert result.returncode == 0, result.stderr
    assert "rule broken" not in result.stderr


@pytest.mark.parametrize("case", case_names("rules"))
def test_rule(case: str) -> None:
    result = run("rules", case)
    assert result.returncode == 0, result.stderr


def test_a_broken_rule_ends_the_process_by_default() -> None:
    result = run("rules", "set_bytes_over_4_kb", "abort")
    assert result.returncode == -6
    assert "Metal rule broken: setBytes: 4097 bytes" in result.stderr
