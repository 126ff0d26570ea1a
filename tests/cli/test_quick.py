"""What ``generate`` reads without typer is what typer reads."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from longbow_quarrel.cli import answer, commands, interrupt, quick
from longbow_quarrel.cli.flags import Flags

GENERATE = commands._load("generate")
FLAGS = sorted(flag for p in GENERATE.params for flag in (*p.opts, *p.secondary_opts))
WORDS = ["Hi", "a b", "", "-", "--", "3", "-1", "x.gguf", "--tem", "-n5", "-vn", "é"]
ARGUMENTS = st.lists(
    st.sampled_from(FLAGS) | st.sampled_from(WORDS) | st.sampled_from([f"{f}=7" for f in FLAGS]),
    max_size=6,
)


class Refused(Exception):
    pass


def by_typer(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[Flags, dict[str, Any]]:
    calls: list[tuple[Flags, dict[str, Any]]] = []
    with monkeypatch.context() as patch:
        patch.setattr(answer, "generate", lambda flags, **own: calls.append((flags, own)))
        try:
            GENERATE.main(arguments, standalone_mode=False)
        except Exception as e:
            raise Refused from e
    if not calls:  # it has printed its help
        raise Refused
    return calls[0]


@settings(max_examples=300, deadline=None)
@example(["Hi", "-m", "x", "-n", "3", "--temp", "0", "--json", "--no-offline", "--system=s"])
@example(["--prompt-cache", "file", "-ctk", "q8_0", "-v", "-"])
@given(ARGUMENTS)
def test_what_it_reads_is_what_typer_reads(arguments: list[str]) -> None:
    read = quick.read_generate(arguments)
    if read is not None:
        assert read == by_typer(arguments, pytest.MonkeyPatch())


def test_it_reads_every_flag() -> None:
    for parameter in GENERATE.params:
        for flag in (*parameter.opts, *parameter.secondary_opts):
            if flag.startswith("-") and flag not in ("--help", "-h"):
                given = [flag] if getattr(parameter, "is_flag", False) else [flag, "1"]
                assert quick.read_generate(given) is not None, flag


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--help"],
        ["models"],
        ["generate", "--help"],
        ["generate", "a", "b"],
        ["generate", "-n"],
        ["generate", "--no-such-flag"],
    ],
)
def test_the_rest_is_left_to_typer(arguments: list[str]) -> None:
    assert quick.parse(arguments) is None


def test_commands_are_imported_when_they_are_asked_for() -> None:
    with interrupt.guard() as guard, pytest.raises(Exception, match="No such command") as raised:
        commands.invoke(["serv"], guard)
    assert "serve" in str(raised.value)  # a suggestion
