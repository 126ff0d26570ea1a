from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longbow_quarrel.errors import UsageError
from longbow_quarrel.stop import StopMatcher

# A small alphabet makes overlapping and nested stop strings common.
words = st.text(alphabet="abé", min_size=1, max_size=5)
stops = st.lists(words, max_size=4)


def naive(text: str, stop: list[str]) -> tuple[str, str | None]:
    """Look at every beginning of the text, shortest first, for a stop string at its end."""
    for end in range(len(text) + 1):
        ending = [s for s in stop if text[:end].endswith(s)]
        if ending:
            longest = max(ending, key=len)
            return text[: end - len(longest)], longest
    return text, None


@given(st.lists(st.text(alphabet="abé", max_size=6), max_size=8), stops)
def test_any_cutting_gives_what_the_naive_twin_gives(pieces: list[str], stop: list[str]) -> None:
    matcher = StopMatcher(stop)
    given_out = "".join(matcher.push(piece) for piece in pieces) + matcher.flush()
    assert (given_out, matcher.matched) == naive("".join(pieces), stop)


@given(st.text(alphabet="abé", max_size=30), stops)
def test_holds_back_no_more_than_could_begin_a_stop_string(text: str, stop: list[str]) -> None:
    matcher = StopMatcher(stop)
    given_out = ""
    for end, character in enumerate(text, start=1):
        given_out += matcher.push(character)
        if matcher.matched is not None:
            return
        held = text[len(given_out) : end]
        tails = [text[end - n : end] for n in range(end + 1)]
        undecided = [t for t in tails if t and any(s.startswith(t) for s in stop)]
        assert held == max(undecided, key=len, default="")


def test_text_after_a_match_is_dropped() -> None:
    matcher = StopMatcher(["END"])
    assert matcher.push("one EN") == "one "
    assert matcher.push("D two") == ""
    assert matcher.matched == "END"
    assert matcher.push("three") == ""
    assert matcher.flush() == ""


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(UsageError, match="stop must hold"):
        StopMatcher(["a", ""])
