"""Generates the swizzles of ``vec<T, N>`` (``v.xy``, ``v.wzyx``, ``v.rgb``) as clang properties."""

from __future__ import annotations

import itertools
from collections.abc import Iterator


def _accessors(combination: tuple[int, ...]) -> Iterator[str]:
    width = len(combination)
    name = "".join("xyzw"[c] for c in combination)
    type_ = "T" if width == 1 else f"vec<T, {width}>"
    values = ", ".join(f"__s[{c}]" for c in combination)
    yield f"constexpr {type_} __get_{name}() const {{ return {type_}({values}); }}"
    writable = len(set(combination)) == width
    if writable:
        parts = ["value"] if width == 1 else [f"value.__s[{i}]" for i in range(width)]
        body = " ".join(f"__s[{c}] = {p};" for c, p in zip(combination, parts, strict=True))
        yield f"constexpr void __put_{name}({type_} value) {{ {body} }}"
    put = f", put = __put_{name}" if writable else ""
    names = [name]
    if width == 1 or combination == tuple(range(width)):
        names.append("".join("rgba"[c] for c in combination))
    for alias in names:
        yield f"__declspec(property(get = __get_{name}{put})) {type_} {alias};"


def swizzle_members(n: int) -> str:
    """The member declarations for ``vec<T, n>``, n = 2, 3 or 4."""
    lines: list[str] = []
    for width in (1, 2, 3, 4):
        for combination in itertools.product(range(n), repeat=width):
            lines.extend(_accessors(combination))
    return "\n".join(lines) + "\n"
