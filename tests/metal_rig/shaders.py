"""The product's shaders as one source string each, as the host compiles them."""

from __future__ import annotations

import re
from pathlib import Path

SHADERS = Path(__file__).parents[2] / "shaders"


def shader_files() -> list[Path]:
    """Every .metal file of the product."""
    return sorted(SHADERS.glob("*.metal"))


def shader_source(file: Path) -> str:
    """A shader with its local includes put in place, each once, and line markers kept."""
    seen: set[str] = set()

    def expand(path: Path) -> str:
        lines = [f'#line 1 "{path.name}"']
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            include = re.fullmatch(r'#include "(.+)"', line.strip())
            if include is None:
                lines.append("" if line.strip() == "#pragma once" else line)
            elif include[1] not in seen:
                seen.add(include[1])
                lines += [expand(path.parent / include[1]), f'#line {number + 1} "{path.name}"']
            else:
                lines.append("")
        return "\n".join(lines)

    return expand(file) + "\n"
