"""Two products of 8x8 matrices that share their right factor become one instruction of PTX.

The shim multiplies by ``mma.m16n8k8``, of whose sixteen rows it uses eight
(include/nvptx/msl_target_simdgroup.h). Rows do not touch each other, so results keep their bits,
and sums lie in four neighbouring registers instead of two of four.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_PRODUCT = re.compile(
    r"\s*(mma\.sync\.aligned\.m16n8k8\.row\.col\.f32\.f16\.f16\.f32) "
    r"\{(.*?), (.*?), .*?\}, \{(.*?), .*?\}, \{(.*?)\}, \{(.*?), (.*?), .*?\};"
)
_REGISTER = re.compile(r"%[a-z]+\d+")
# Where a basic block may end: labels of debug information are none.
_BORDER = re.compile(r"(?!\$L__tmp)\S+:|.*\b(bra|ret|exit|trap|call|bar|barrier)\b")


@dataclass(frozen=True)
class _Product:
    line: int
    opcode: str
    sums: tuple[str, str]
    left: str
    right: str
    addends: tuple[str, str]


def _parse(line: str, number: int) -> _Product | None:
    match = _PRODUCT.match(line)
    if match is None:
        return None
    opcode, d0, d1, a, b, c0, c1 = match.groups()
    return _Product(number, opcode, (d0, d1), a, b, (c0, c1))


def _written(line: str) -> set[str]:
    """Registers that an instruction writes, those that a store takes as an address included."""
    operands = line.strip().removesuffix(";").partition(" ")[2] if "@" not in line else line
    first = operands[: operands.find("}")] if operands.lstrip().startswith("{") else operands
    return set(_REGISTER.findall(first if first != operands else operands.split(",")[0]))


def _may_wait(product: _Product, line: str) -> bool:
    """Whether a product may as well be made behind the line."""
    if not set(product.sums).isdisjoint(_REGISTER.findall(line)):
        return False
    return _written(line).isdisjoint({product.left, product.right, *product.addends})


def pair_products(ptx: str) -> str:
    """The same program with fewer products."""
    lines = ptx.splitlines(keepends=True)
    waiting: dict[str, _Product] = {}  # by right factor
    for i, line in enumerate(lines):
        if _BORDER.match(line):
            waiting.clear()
            continue
        waiting = {b: p for b, p in waiting.items() if _may_wait(p, line)}
        product = _parse(line, i)
        if product is None:
            continue
        first = waiting.pop(product.right, None)
        if first is None:
            waiting[product.right] = product
            continue
        operands = (
            (*first.sums, *product.sums),
            (first.left, product.left),
            (product.right,),
            (*first.addends, *product.addends),
        )
        lines[i] = f"\t{first.opcode} {', '.join('{' + ', '.join(o) + '}' for o in operands)};\n"
        lines[first.line] = ""
    return "".join(lines)
