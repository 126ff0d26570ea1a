"""Tokens of preprocessed Metal source, enough for a rewriter that looks at words and brackets."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""(?P<mark>^\#[^\n]*\n)            # a line marker or pragma
      | (?P<space>\s+)
      | (?P<word>[A-Za-z_]\w*)
      | (?P<number>\.?\d(?:[eEpP][+-]|[\w.'])*)
      | (?P<string>"(?:\\.|[^"\\])*")
      | (?P<char>'(?:\\.|[^'\\])*')
      | (?P<operator>::|->|<<=|>>=|&&|\|\||.)""",
    re.MULTILINE | re.DOTALL | re.VERBOSE,
)
_CLOSING = {"(": ")", "[": "]", "{": "}", "<": ">"}


class MetalSyntaxError(Exception):
    """Brackets do not match, or a construct that the rewriter does not understand."""


@dataclass(frozen=True)
class Token:
    kind: str
    text: str

    @property
    def blank(self) -> bool:
        """White space and line markers: no part of the grammar."""
        return self.kind in ("space", "mark")


def tokenize(source: str) -> list[Token]:
    """All tokens; joining their texts gives the source back."""
    return [Token(m.lastgroup or "", m.group()) for m in _TOKEN.finditer(source)]


def significant(tokens: list[Token]) -> list[Token]:
    return [t for t in tokens if not t.blank]


def join(tokens: list[Token]) -> str:
    """The tokens as source text with single spaces."""
    return " ".join(t.text for t in significant(tokens)).replace(" :: ", "::")


def next_index(tokens: list[Token], i: int) -> int:
    """The first significant token at or after i, or len(tokens)."""
    while i < len(tokens) and tokens[i].blank:
        i += 1
    return i


def previous_index(tokens: list[Token], i: int) -> int:
    """The last significant token at or before i, or -1."""
    while i >= 0 and tokens[i].blank:
        i -= 1
    return i


def closing_index(tokens: list[Token], i: int) -> int:
    """Where the bracket at i is closed. Raises MetalSyntaxError if it is not."""
    opening, closing, depth = tokens[i].text, _CLOSING[tokens[i].text], 0
    for j in range(i, len(tokens)):
        if tokens[j].text == opening:
            depth += 1
        elif tokens[j].text == closing:
            depth -= 1
            if depth == 0:
                return j
    raise MetalSyntaxError(f"no {closing!r} closes this {opening!r}")


def is_attribute(tokens: list[Token], i: int) -> bool:
    """Whether ``[[`` starts at i (``a[[]{...}()]`` is not valid Metal: lambdas do not exist)."""
    return tokens[i].text == "[" and i + 1 < len(tokens) and tokens[i + 1].text == "["


def split_list(tokens: list[Token]) -> list[list[Token]]:
    """Cuts at the commas outside of all brackets, angle brackets included."""
    parts: list[list[Token]] = [[]]
    depth = angle = 0
    for token in tokens:
        if token.text in "([{":
            depth += 1
        elif token.text in ")]}":
            depth -= 1
        elif token.text == "<":
            angle += 1
        elif token.text == ">" and angle:
            angle -= 1
        if token.text == "," and depth == 0 and angle == 0:
            parts.append([])
        else:
            parts[-1].append(token)
    return [p for p in parts if significant(p)]


def split_attributes(tokens: list[Token]) -> tuple[list[Token], list[str]]:
    """The tokens without their ``[[...]]``, and the attributes as text without spaces."""
    rest: list[Token] = []
    attributes: list[str] = []
    i = 0
    while i < len(tokens):
        if is_attribute(tokens, i):
            end = closing_index(tokens, i)
            for part in split_list(tokens[i + 2 : end - 1]):
                attributes.append("".join(t.text for t in significant(part)))
            i = end + 1
        else:
            rest.append(tokens[i])
            i += 1
    return rest, attributes
