"""Every barrier of the attention shaders is needed, and the rig notices when one is missing."""

from __future__ import annotations

import re

import numpy as np
import pytest

from metal_rig import attention_runner, toolchain
from metal_rig.attention_runner import Batch, Shape, random_sequence, run_decode, run_prefill
from metal_rig.msl.runner import KernelError
from metal_rig.shaders import SHADERS, shader_source

PACKAGES = toolchain.MSL_PACKAGES
BARRIER = re.compile(r"\b(threadgroup|simdgroup)_barrier\(")
# Simdgroups of a GPU run in lockstep between two shuffles, and so do the rig's.
HIDDEN = {("attention_decode", "simdgroup")}
SHAPES = (
    Shape(head_dim=256, n_heads=16, round=32),
    Shape(n_heads=8, block_size=8, round=32),
    # Sums of four scale groups in two steps: a short round has too little memory for one.
    Shape(head_dim=128, n_heads=8, round=32, k_type="q4_0", v_type="q8_0"),
)


def barriers(kernel: str) -> list[int]:
    """Offsets in the shader's own file of barriers whose absence shows."""
    text = (SHADERS / f"{kernel}.metal").read_text()
    return [m.start() for m in BARRIER.finditer(text) if (kernel, m[1]) not in HIDDEN]


def without_barrier(kernel: str, offset: int) -> str:
    """The shader's source with one call replaced by nothing."""
    own = (SHADERS / f"{kernel}.metal").read_text()
    statement = own[offset : own.index(";", offset)]
    source = shader_source(SHADERS / f"{kernel}.metal")
    at = len(source)
    for _ in range(own.count(statement, offset)):  # from the end, as headers come first
        at = source.rindex(statement, 0, at)
    return source[:at] + "(void)0" + source[at + len(statement) :]


def is_noticed(kernel: str, shape: Shape) -> bool:
    decode = kernel == "attention_decode"
    batch = Batch(shape, [random_sequence(shape, n, 1 if decode else 20, n) for n in (150, 60)])
    try:
        actual = run_decode(batch) if decode else run_prefill(batch, "half")
    except KernelError:
        return True
    return not np.allclose(actual, batch.expected(), atol=3e-3)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("kernel", "offset"),
    [(k, at) for k in ("attention_decode", "attention_prefill") for at in barriers(k)],
)
def test_a_missing_barrier_is_noticed(
    kernel: str, offset: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = without_barrier(kernel, offset)

    monkeypatch.setattr(attention_runner, "shader_source", lambda _: source)
    attention_runner.library.cache_clear()
    try:
        assert any(is_noticed(kernel, shape) for shape in SHAPES)
    finally:
        attention_runner.library.cache_clear()
