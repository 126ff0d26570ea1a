"""Builds the software Metal, and Objective-C++ sources that use it, on Linux.

Two Objective-C ABIs meet. The software Metal defines classes, so it is compiled for gcc's runtime
with manual retain and release. The product's sources define none and use ARC: clang's gnustep-1.9
ABI, tied to the same gcc runtime by arc_bridge.c.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from metal_rig import toolchain
from metal_rig.msl.runner import build_runtime

HERE = Path(__file__).parent
RIG = HERE.parent
STUB_FOUNDATION = RIG / "sdk" / "foundation"
STUB_METAL = RIG / "sdk" / "metal"
# gnustep's headers ask for a blocks header that gcc's runtime does not have.
_COMPATIBILITY = HERE / "compatibility"


def build_metal() -> Path:
    """libMetal.so: what links against it sees Apple's Metal API."""
    objc = toolchain.objc_folder()
    runtime = build_runtime()
    sources = [*sorted(HERE.glob("*.mm")), HERE / "state.cpp"]
    headers = [*HERE.glob("*.h"), *STUB_METAL.rglob("*.h"), *_COMPATIBILITY.rglob("*.h")]
    headers += [HERE / "arc_bridge.c", RIG / "msl" / "runtime" / "msl_runtime.h"]
    bridge = build_bridge()
    flags = ["-std=c++20", "-O1", "-g", "-fPIC", "-shared", "-Wall", "-fobjc-runtime=gcc"]
    flags += ["-fblocks", "-fexceptions", "-fobjc-exceptions", "-D_NATIVE_OBJC_EXCEPTIONS"]
    flags += ["-fconstant-string-class=NSConstantString", "-Wno-nullability-completeness"]
    flags += ["-DGNUSTEP", "-DGNUSTEP_BASE_LIBRARY=1", "-DGNU_RUNTIME=1"]
    flags += [f'-DRIG_PYTHON="{sys.executable}"', f'-DRIG_TESTS="{RIG.parent}"']
    include = [_COMPATIBILITY, STUB_METAL, Path("/usr/include/GNUstep"), objc / "include"]
    command = [toolchain.clangxx(), *flags, *(f"-isystem{p}" for p in include)]
    command += [*map(str, sources), str(bridge), str(runtime), f"-Wl,-rpath,{runtime.parent}"]
    command += ["-Wl,-soname,libMetal.so", *_objc_libraries(), "-o", "{output}"]
    return toolchain.build("libMetal.so", command, [*sources, *headers])


def build_bridge() -> Path:
    """The ARC bridge as an object: a part of libMetal.so."""
    source = HERE / "arc_bridge.c"
    command = [toolchain.clangxx(), "-x", "c", "-std=gnu11", "-O2", "-fPIC", "-fblocks", "-Wall"]
    command += ["-c", str(source), "-o", "{output}"]
    return toolchain.build("arc_bridge.o", command, [source])


def product_compile_flags() -> list[str]:
    """Flags for the product's .mm files under the rig."""
    return [
        "-std=c++20",
        "-fobjc-runtime=gnustep-1.9",
        "-fobjc-arc",
        "-fblocks",
        "-fexceptions",
        "-fobjc-exceptions",
        "-fconstant-string-class=NSConstantString",
        f"-isystem{STUB_FOUNDATION}",
        f"-isystem{STUB_METAL}",
    ]


def product_link_flags() -> list[str]:
    """Libraries for what contains such files, in this order."""
    metal, runtime = build_metal(), build_runtime()
    paths = [f"-Wl,-rpath,{metal.parent}", f"-Wl,-rpath,{runtime.parent}"]
    return [str(metal), str(runtime), *paths, *_objc_libraries()]


def build_program(source: Path) -> Path:
    """An executable of one .mm file, compiled as the product is."""
    command = [toolchain.clangxx(), "-O1", "-g", "-Wall", "-Wextra", "-Werror"]
    command += [*product_compile_flags(), f"-I{HERE}", str(source), *product_link_flags()]
    headers = [*STUB_FOUNDATION.rglob("*.h"), *STUB_METAL.rglob("*.h"), *source.parent.glob("*.h")]
    command += ["-o", "{output}"]
    return toolchain.build(source.stem, command, [source, *headers, HERE / "rig_control.h"])


def cmake_description() -> str:
    """What rig.cmake reads: compiler, compile flags and libraries, a line each, as CMake lists."""
    compiler = shutil.which(toolchain.clangxx())
    lines = [str(compiler), ";".join(product_compile_flags()), ";".join(product_link_flags())]
    return "\n".join(lines) + "\n"


def _objc_libraries() -> list[str]:
    return [
        "-lgnustep-base",
        f"-L{toolchain.objc_folder()}",
        "-lobjc",
        "-lBlocksRuntime",
        "-lpthread",
        "-ldl",
    ]


if __name__ == "__main__":
    problem = toolchain.why_not(toolchain.FRAMEWORK_PACKAGES)
    if problem:
        sys.exit(problem)
    sys.stdout.write(cmake_description())
