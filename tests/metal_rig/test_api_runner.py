"""Kernels through the Metal API give what they give by themselves: the way that Macs' tests go."""

from __future__ import annotations

import platform
import struct

import numpy as np
import pytest

from metal_rig import attention_runner, test_attention_decode, test_linear, toolchain
from metal_rig.api import runner as api
from metal_rig.msl import runner as msl
from metal_rig.shaders import SHADERS, shader_source

PACKAGES = toolchain.FRAMEWORK_PACKAGES
BOTH = (msl, api)


def test_the_default_is_the_rig_here() -> None:
    from metal_rig import kernels

    assert (kernels.Library is msl.Library) == (platform.system() != "Darwin")
    assert api.why_not() is None


def test_top_k() -> None:
    """Threadgroup variables, 64-bit integers, an argument that is not bound."""
    logits = np.random.default_rng(0).standard_normal((2, 4099)).astype(np.float32)
    results = []
    for runner in BOTH:
        candidates = np.zeros((2, 3, 5), np.uint64)
        library = runner.Library(shader_source(SHADERS / "sampling.metal"))
        runner.run_kernel(
            library,
            "top_k_chunks",
            [logits, candidates, None, None, struct.pack("II", 4099, 5)],
            threadgroups=[3, 2],
            threads=[256],
            order="both",
        )
        results.append(candidates)
    assert results[0].any()
    np.testing.assert_array_equal(*results)


def test_linear_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Function constants of both types."""
    case = test_linear.make_case(test_linear.TYPES[3], 3, 21, 256)
    results = []
    for runner in BOTH:
        monkeypatch.setattr(test_linear, "Library", runner.Library)
        monkeypatch.setattr(test_linear, "run_kernel", runner.run_kernel)
        results.append(test_linear.run_linear("decode", case, bias=True, residual_scale=0.5))
    np.testing.assert_array_equal(*results)


def test_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threadgroup memory as an argument."""
    shape = attention_runner.Shape(k_type="q8_0")
    batch = test_attention_decode.decode_batch(shape, (5, 150))
    results = []
    for runner in BOTH:
        attention_runner.library.cache_clear()
        monkeypatch.setattr(attention_runner, "Library", runner.Library)
        monkeypatch.setattr(attention_runner, "run_kernel", runner.run_kernel)
        results.append(attention_runner.run_decode(batch, order="forward"))
    attention_runner.library.cache_clear()
    np.testing.assert_array_equal(*results)


def test_a_grid_of_threads() -> None:
    x, y = np.random.default_rng(1).standard_normal((2, 41)).astype(np.float32)
    out = np.zeros(41, np.float32)
    api.run_kernel(
        api.Library(shader_source(SHADERS / "elementwise.metal")),
        "add",
        [x, y, out, struct.pack("If", 41, 2.0)],
        grid=[11],
        threads=[8],
    )
    np.testing.assert_allclose(out, x + 2 * y, rtol=1e-6)


def test_errors_are_metal_s() -> None:
    with pytest.raises(api.KernelError, match="the source does not compile"):
        api.Library("kernel void broken( {")
    library = api.Library(shader_source(SHADERS / "elementwise.metal"))
    with pytest.raises(api.KernelError, match="no such kernel"):
        api.run_kernel(library, "missing", [], threadgroups=[1], threads=[1])
    with pytest.raises(api.KernelError, match="fewer threads"):
        api.run_kernel(library, "add", [], threadgroups=[1], threads=[2048])
