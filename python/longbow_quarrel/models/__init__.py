"""One file per architecture; each records its forward pass into a native Program."""

from __future__ import annotations

from collections.abc import Callable

from longbow_quarrel import _core
from longbow_quarrel.errors import ModelFormatError
from longbow_quarrel.models import gemma3, granite, llama, qwen2, qwen3
from longbow_quarrel.models.metadata import Hyperparameters, read_hyperparameters

__all__ = ["ARCHITECTURES", "Hyperparameters", "read_hyperparameters", "record"]

Record = Callable[[_core.GGUFFile, Hyperparameters], _core.Program]

ARCHITECTURES: dict[str, Record] = {
    "gemma3": gemma3.record,
    "granite": granite.record,
    "llama": llama.record,
    "qwen2": qwen2.record,
    "qwen3": qwen3.record,
}


def record(file: _core.GGUFFile) -> tuple[Hyperparameters, _core.Program]:
    """Record the forward pass of the model in ``file``.

    Raises:
        ModelFormatError: the architecture is not supported, or the file does not fit it.
    """
    architecture = file.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise ModelFormatError(
            f"{file.path}: architecture {architecture!r} is not supported; "
            f"use a model of {', '.join(ARCHITECTURES)}."
        )
    parameters = read_hyperparameters(file)
    return parameters, ARCHITECTURES[architecture](file, parameters)
