"""Progress bars: drawn on a terminal, absent from a pipe."""

from __future__ import annotations

import io

import pytest

from longbow_quarrel.sources.progress import terminal_progress

SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _a_capable_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


def test_a_pipe_gets_no_callback_and_no_text():
    pipe = io.StringIO()
    with terminal_progress(pipe) as progress:
        assert progress is None
    assert pipe.getvalue() == ""


def test_standard_error_is_the_default(capsys: pytest.CaptureFixture[str]):
    with terminal_progress() as progress:
        assert progress is None  # pytest captures it, so it is no terminal
    assert capsys.readouterr().err == ""


def test_a_terminal_shows_each_piece_of_work():
    terminal = Terminal()
    with terminal_progress(terminal) as progress:
        assert progress is not None
        progress("waiting", 0, None)
        for done in (0, 500_000, 1_000_000):
            progress("downloading [a]", done, 1_000_000)
        progress("unpacking", 3, 10)
    text = terminal.getvalue()
    for expected in ("waiting", "downloading [a]", "1.0/1.0 MB", "unpacking", "3/10 bytes"):
        assert expected in text
    assert text.rindex(SHOW_CURSOR) > text.rindex(HIDE_CURSOR)


def test_work_that_was_not_needed_shows_nothing():
    terminal = Terminal()
    with terminal_progress(terminal):
        pass
    assert terminal.getvalue() == ""


def test_ctrl_c_gives_the_cursor_back():
    terminal = Terminal()

    def interrupted() -> None:
        with terminal_progress(terminal) as progress:
            assert progress is not None
            progress("downloading", 1, 2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    text = terminal.getvalue()
    assert text.rindex(SHOW_CURSOR) > text.rindex(HIDE_CURSOR)
