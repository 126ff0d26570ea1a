"""Which kernels a test run asks for, so that another machine's copies can be compiled beforehand.

With METAL_RIG_RECORD naming a folder, every (source, macros, constants, kernel) that runs leaves a
file there, once.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metal_rig.msl.compiler import identity
from metal_rig.shaders import SHADERS, shader_files, shader_source

VARIABLE = "METAL_RIG_RECORD"


@dataclass(frozen=True)
class Unit:
    """One kernel of one specialisation: what is compiled for a GPU at a time."""

    text: str
    kernel: str
    constants: Mapping[int, np.generic]
    macros: Mapping[str, str]

    @property
    def key(self) -> str:
        """Names it, whatever compiler and shim make it."""
        made_from = identity(self.text, self.macros, self.constants, [self.kernel])
        return hashlib.sha256(made_from).hexdigest()[:32]

    def to_json(self) -> str:
        constants = {str(i): [v.dtype.name, v.item()] for i, v in self.constants.items()}
        return json.dumps(
            {
                "shader": _shaders().get(self.text),
                "text": self.text if self.text not in _shaders() else None,
                "kernel": self.kernel,
                "constants": constants,
                "macros": dict(self.macros),
            }
        )

    @staticmethod
    def from_json(text: str) -> Unit:
        values = json.loads(text)
        constants = {int(i): np.dtype(t).type(v) for i, (t, v) in values["constants"].items()}
        shader = values["shader"]
        text = shader_source(SHADERS / f"{shader}.metal") if shader else values["text"]
        return Unit(text, values["kernel"], constants, values["macros"])


@functools.cache
def _shaders() -> dict[str, str]:
    """The product's shaders by their text: a record outlives changes of one."""
    return {shader_source(file): file.stem for file in shader_files()}


def record(
    text: str, macros: Mapping[str, str], constants: Mapping[int, np.generic], kernel: str
) -> None:
    """Leaves a file for the unit if somebody asked for it."""
    folder = os.environ.get(VARIABLE)
    if folder is None:
        return
    unit = Unit(text, kernel, constants, macros)
    file = Path(folder, f"{unit.key}.json")
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(unit.to_json())


def recorded(folder: Path) -> list[Unit]:
    """The units of a folder."""
    return [Unit.from_json(file.read_text()) for file in sorted(folder.glob("*.json"))]
