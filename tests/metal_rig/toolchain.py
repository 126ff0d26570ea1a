"""Compilers, packages and the cache of the rig. Nothing here is needed by the product."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

CLANG_VERSION = "19"
# What proves that a package is there: a program or a header.
_GNUSTEP = "/usr/include/GNUstep/Foundation/Foundation.h"
_BLOCKS = "/usr/include/Block.h"
MSL_PACKAGES = (f"clang-{CLANG_VERSION}",)
FRAMEWORK_PACKAGES = (
    *MSL_PACKAGES,
    "libgnustep-base-dev",
    "libobjc-12-dev",
    "libblocksruntime-dev",
)


def clangxx() -> str:
    return f"clang++-{CLANG_VERSION}"


def _objc_folder() -> Path | None:
    """gcc's folder with libobjc and its headers: the newest one that has both."""
    found = sorted(Path("/usr/lib/gcc/x86_64-linux-gnu").glob("*/include/objc/objc.h"))
    return found[-1].parents[2] if found else None


def objc_folder() -> Path:
    """Where <objc/objc.h> (below include/) and libobjc.so are."""
    folder = _objc_folder()
    assert folder is not None, "call only where missing_packages(FRAMEWORK_PACKAGES) is empty"
    return folder


def missing_packages(packages: tuple[str, ...]) -> list[str]:
    """Those of the packages that are not installed, by Debian's names."""
    present = {
        f"clang-{CLANG_VERSION}": shutil.which(clangxx()) is not None,
        "libgnustep-base-dev": Path(_GNUSTEP).exists(),
        "libobjc-12-dev": _objc_folder() is not None,
        "libblocksruntime-dev": Path(_BLOCKS).exists(),
    }
    return [p for p in packages if not present[p]]


def why_not(packages: tuple[str, ...]) -> str | None:
    """One sentence that says why the rig cannot run here and what to do, or None if it can."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return "the Metal rig needs Linux on x86-64: elsewhere run the tests on a Mac's own GPU."
    missing = missing_packages(packages)
    if not missing:
        return None
    return (
        f"the Metal rig needs {', '.join(missing)}: "
        f"run `sudo apt-get install --no-install-recommends {' '.join(missing)}`."
    )


@functools.cache
def compiler_key() -> str:
    """Names the compiler and the CPU: objects are compiled with -march=native."""
    version = subprocess.run(
        [clangxx(), "--version"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    cpu = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    flags = [line for line in cpu.splitlines() if line.startswith(("model name", "flags"))]
    return hashlib.sha256("\n".join([version, *flags]).encode()).hexdigest()


def cache_directory(*parts: str) -> Path:
    """A folder below the rig's cache: METAL_RIG_CACHE, or the user's cache folder."""
    base = os.environ.get("METAL_RIG_CACHE")
    user = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(base or Path(user, "longbow-quarrel", "metal-rig"), *parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_atomically(file: Path, text: str) -> None:
    with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as temporary:
        temporary.write(text)
    Path(temporary.name).replace(file)


def move_atomically(source: Path, target: Path) -> None:
    """Like rename, across file systems: nobody ever sees half a file under the target's name."""
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as temporary:
        temporary.write(source.read_bytes())
    Path(temporary.name).replace(target)


def build(name: str, command: list[str], sources: list[Path]) -> Path:
    """Runs a compile command unless the cache has its result, and returns the result.

    The command holds ``{output}`` where the result's path belongs. Sources are all files that the
    result depends on: they, the command and the compiler make the key.
    """
    digest = hashlib.sha256(compiler_key().encode() + "\0".join(command).encode())
    for source in sorted(sources):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    target = cache_directory("native", digest.hexdigest()) / name
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            output = Path(folder, name)
            full = [part.replace("{output}", str(output)) for part in command]
            result = subprocess.run(full, capture_output=True, text=True, timeout=300, check=False)
            if result.returncode != 0:
                raise RuntimeError(f"building {name} failed:\n{result.stderr}")
            output.replace(target)
    return target
