"""qwen2: llama with biases on the query, key and value projections and rotation of half heads."""

from __future__ import annotations

from longbow_quarrel import _core
from longbow_quarrel.models import llama
from longbow_quarrel.models.metadata import Hyperparameters


def record(file: _core.GGUFFile, p: Hyperparameters) -> _core.Program:
    """Record the forward pass (Yang et al., "Qwen2 Technical Report", 2024)."""
    return llama.record_layers(file, p, interleaved_rope=False)
