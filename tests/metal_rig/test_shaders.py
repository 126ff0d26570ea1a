"""The product's shaders: each compiles cleanly; the first kernels against the NumPy oracle."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

import reference
from metal_rig import toolchain
from metal_rig.msl.compiler import compile_metal
from metal_rig.msl.runner import Library, run_kernel
from metal_rig.shaders import SHADERS, shader_files, shader_source

PACKAGES = toolchain.MSL_PACKAGES


@pytest.mark.compiler
@pytest.mark.parametrize("file", shader_files(), ids=lambda f: f.stem)
def test_compiles_without_warnings(file: Path) -> None:
    compile_metal(shader_source(file), warnings=True)


@pytest.mark.compiler
def test_params_compile_for_the_host() -> None:
    """The size assertions hold in C++ as they do in the shaders."""
    command = [toolchain.clangxx(), "-std=c++20", "-x", "c++", "-fsyntax-only", "-Wall", "-Wextra"]
    result = subprocess.run(
        [*command, "-Werror", "-Wno-pragma-once-outside-header", str(SHADERS / "params.h")],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("n", [4, 64, 576, 2052])
@pytest.mark.parametrize("n_rows", [1, 3])
@pytest.mark.parametrize("threads", [32, 256])
@pytest.mark.parametrize("check_accesses", [False, True])
def test_rms_norm(n: int, n_rows: int, threads: int, check_accesses: bool) -> None:
    rng = np.random.default_rng(n)
    x = rng.standard_normal((n_rows, n)).astype(np.float32)
    weight = rng.standard_normal(n).astype(np.float32)
    out = np.full_like(x, np.nan)
    run_kernel(
        Library(shader_source(SHADERS / "rms_norm.metal"), check_accesses=check_accesses),
        "rms_norm",
        [x, weight, out, struct.pack("If", n, 1e-5)],
        threadgroups=[n_rows],
        threads=[threads],
    )
    np.testing.assert_allclose(out, reference.rms_norm(x, weight, 1e-5), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("n", [1, 31, 1000])
def test_add(n: int) -> None:
    x, y = np.random.default_rng(n).standard_normal((2, n)).astype(np.float32)
    out = np.full_like(x, np.nan)
    run_kernel(
        Library(shader_source(SHADERS / "elementwise.metal")),
        "add",
        [x, y, out, struct.pack("If", n, 0.25)],
        threadgroups=[-(-n // 64)],
        threads=[64],
    )
    np.testing.assert_allclose(out, reference.add(x, y, 0.25), rtol=1e-6, atol=1e-7)
