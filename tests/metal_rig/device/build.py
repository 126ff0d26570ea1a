"""Builds and loads the Metal device on the software Metal, as a module beside the product's own."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.machinery
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

from metal_rig import toolchain

ROOT = Path(__file__).parents[3]
NAME = "_metal_rig"
_SECONDS = 600


def build_device() -> Path:
    """The module's file. The build folder stays in the rig's cache: a second call is quick.

    Raises RuntimeError with the compiler's output.
    """
    key = hashlib.sha256(f"{ROOT}\0{sys.executable}".encode()).hexdigest()[:16]
    folder = toolchain.cache_directory("device", key)
    with Path(folder, "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not Path(folder, "CMakeCache.txt").exists():
            _configure(folder)
        _run("cmake", "--build", str(folder), "--target", NAME)
    (module,) = Path(folder, "tests", "metal_rig", "device").glob(f"{NAME}*.so")
    return module


def load_device() -> ModuleType:
    """The module, built if need be: its MetalDevice is what _core.MetalDevice is on a Mac."""
    loader = importlib.machinery.ExtensionFileLoader(NAME, str(build_device()))
    spec = importlib.util.spec_from_loader(NAME, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def _configure(folder: Path) -> None:
    import nanobind

    options = {
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_CXX_FLAGS_RELEASE": "-O1",  # what counts runs in the kernels
        "CMAKE_OBJCXX_FLAGS_RELEASE": "-O1",
        "QUARREL_BUILD_PYTHON": "OFF",
        "QUARREL_METAL_RIG": "ON",
        "Python_EXECUTABLE": sys.executable,
        "nanobind_DIR": nanobind.cmake_dir(),
    }
    if shutil.which("ccache"):
        options |= {f"CMAKE_{c}_COMPILER_LAUNCHER": "ccache" for c in ("C", "CXX", "OBJCXX")}
    values = [f"-D{name}={value}" for name, value in options.items()]
    _run("cmake", "-G", "Ninja", "-S", str(ROOT), "-B", str(folder), *values)


def _run(*command: str) -> None:
    result = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stdout}\n{result.stderr}")
