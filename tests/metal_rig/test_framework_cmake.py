"""A library of C++ and Objective-C++, built by CMake as the product's is, runs in Python."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import reference
from metal_rig import toolchain
from metal_rig.framework.control import Fault, software_metal
from metal_rig.shaders import SHADERS, shader_source

PACKAGES = toolchain.FRAMEWORK_PACKAGES
HOST = Path(__file__).parent / "framework" / "host"


def cmake(*arguments: str) -> None:
    program = shutil.which("cmake")
    if program is None:
        pytest.skip("needs CMake: run `pip install cmake ninja`.")
    result = subprocess.run(
        [program, *arguments], capture_output=True, text=True, timeout=55, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    build = tmp_path_factory.mktemp("host")
    cmake("-S", str(HOST), "-B", str(build), f"-DPython_EXECUTABLE={sys.executable}")
    cmake("--build", str(build))
    return ctypes.CDLL(str(build / "libmetal_rig_host.so"))


def add(host: ctypes.CDLL, source: str, x: np.ndarray, y: np.ndarray) -> str:
    """Runs it in place; returns the error's text."""
    message = ctypes.create_string_buffer(4096)
    pointers = [a.ctypes.data_as(ctypes.c_void_p) for a in (x, y)]
    length, scale = ctypes.c_uint32(x.size), ctypes.c_float(0.5)
    host.host_add(source.encode(), *pointers, length, scale, message, ctypes.c_size_t(4096))
    return message.value.decode()


def test_a_product_shader_runs_through_objective_cpp(host: ctypes.CDLL) -> None:
    x, y = np.random.default_rng(0).standard_normal((2, 1000)).astype(np.float32)
    want = reference.add(x, y, 0.5)
    assert add(host, shader_source(SHADERS / "elementwise.metal"), x, y) == ""
    np.testing.assert_allclose(x, want, rtol=1e-6, atol=1e-7)


def test_failures_arrive_as_exceptions(host: ctypes.CDLL) -> None:
    """Python reaches the same software Metal through its control interface."""
    x, y = np.zeros((2, 100), np.float32)
    source = shader_source(SHADERS / "elementwise.metal")
    with software_metal() as metal:
        assert "source.metal:1:" in add(host, "broken", x, y)
        for fault in (Fault.COMPILE, Fault.PIPELINE, Fault.GPU, Fault.TIMEOUT):
            metal.inject(fault)
            assert "injected" in add(host, source, x, y)
        assert add(host, source, x, y) == ""
        assert metal.n_dispatches == 1
        assert metal.n_live_buffers == 0


def test_order_and_access_checks_do_not_change_a_right_kernel(host: ctypes.CDLL) -> None:
    x, y = np.random.default_rng(1).standard_normal((2, 500)).astype(np.float32)
    want = reference.add(x, y, 0.5)
    with software_metal() as metal:
        metal.set_reversed(True)
        metal.set_access_checks(True)
        assert add(host, shader_source(SHADERS / "elementwise.metal"), x, y) == ""
    np.testing.assert_allclose(x, want, rtol=1e-6, atol=1e-7)


def test_broken_rules_fail_the_test(host: ctypes.CDLL) -> None:
    """A threadgroup of 64 where the pipeline allows 32."""
    x, y = np.zeros((2, 64), np.float32)

    def break_a_rule() -> None:
        with software_metal() as metal:
            metal.set_max_threads_per_threadgroup(32)
            add(host, shader_source(SHADERS / "elementwise.metal"), x, y)

    with pytest.raises(AssertionError, match="the pipeline allows 32"):
        break_a_rule()
