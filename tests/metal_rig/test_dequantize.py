"""shaders/dequantize.h against the gguf package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gguf import GGMLQuantizationType as Type
from metal_rig import toolchain
from metal_rig.lint.lint import lint
from metal_rig.msl.runner import Library, run_kernel
from metal_rig.shaders import shader_source
from metal_rig.weights import TYPES, random_weights

PACKAGES = toolchain.MSL_PACKAGES
SOURCE = Path(__file__).parent / "testdata" / "dequantize.metal"


@pytest.mark.parametrize("dtype", TYPES, ids=lambda t: t.name)
def test_expansion_is_the_package_s_bit_for_bit(dtype: Type) -> None:
    weights = random_weights(dtype, 3, 768)
    out = np.full(weights.values.size, np.nan, np.float32)
    run_kernel(
        Library(shader_source(SOURCE)),
        f"expand_{dtype.name}",
        [weights.blocks, out],
        threadgroups=[out.size // 16 // 16],
        threads=[16],
    )
    np.testing.assert_array_equal(out.view(np.uint32), weights.values.reshape(-1).view(np.uint32))


@pytest.mark.compiler
def test_address_spaces() -> None:
    assert lint(shader_source(SOURCE)) == []
