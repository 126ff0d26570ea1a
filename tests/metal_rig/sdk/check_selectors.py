"""Compares the stub headers with metal-cpp, Apple's C++ interface to the same API.

A selector that is wrong in our stub would be wrong everywhere on Linux and fail on a Mac. metal-cpp
is in the macOS wheels of mlx-metal; nothing of it is copied here. Usage:

    python -m metal_rig.sdk.check_selectors --headers FOLDER   # contains Metal/MTLDevice.hpp
    python -m metal_rig.sdk.check_selectors --wheel mlx_metal-...whl
    python -m metal_rig.sdk.check_selectors --download         # fetches the wheel with pip (45 MB)

For every method and property of the stub's Metal protocols and classes: the class in metal-cpp
sends the same selector, with the same types. For every enumerator: the same value.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import zipfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

STUB = Path(__file__).parent / "metal" / "Metal" / "Metal.h"
# Protocols whose methods metal-cpp declares in a base class.
_BASES = {
    "Buffer": ["Resource", "Allocation"],
    "ComputeCommandEncoder": ["CommandEncoder"],
}


@dataclass(frozen=True)
class Method:
    """A selector with its types in a common spelling: ``Buffer*``, ``UInteger``, ``block``."""

    selector: str
    result: str
    arguments: tuple[str, ...]


def common_type(text: str) -> str:
    """One spelling for both sources' types."""
    if "^" in text or "Handler" in text or "std::function" in text:
        return "block"
    text = re.sub(r"\b(const|nullable|_Nullable|_Nonnull|nonnull|class|struct)\b", "", text)
    text = re.sub(r"\bid\s*<\s*(\w+)\s*>", r"\1*", text)
    text = re.sub(r"\b(MTL|NS)::", "", text)
    text = re.sub(r"\b(MTL|NS)(?=[A-Z])", "", text)
    text = re.sub(r"\s+", "", text)
    text = re.sub(r"^(CF)?TimeInterval$|^double$", "TimeInterval", text)
    return {"bool": "BOOL", "id": "Object*"}.get(text, text)


def _uncommented(text: str) -> str:
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S)


def stub_interface(header: str) -> dict[str, set[Method]]:
    """Methods by class or protocol name (without MTL) of an Objective-C header."""
    header = re.sub(r"#ifndef __APPLE__.*?#endif", "", _uncommented(header), flags=re.S)
    header = re.sub(r"(?m)^@(protocol|class) [\w, ]+;$", "", header)  # forward declarations
    found: dict[str, set[Method]] = defaultdict(set)
    pattern = r"@(?:protocol|interface)\s+MTL(\w+)\s*(?::\s*\w+\s*)?(?:<[^>]*>)?([^;].*?)@end"
    for name, body in re.findall(pattern, header, flags=re.S):
        for declaration in re.findall(r"^\s*[-+]\s*(.*?);\n", body, flags=re.S | re.M):
            found[name].add(_objc_method(declaration))
        for attributes, rest in re.findall(r"@property\((.*?)\)\s*(.*?);", body, flags=re.S):
            match = re.fullmatch(r"(.*?)(\w+)", rest.strip(), flags=re.S)
            assert match, rest
            type_, property_ = common_type(match[1]), match[2]
            found[name].add(Method(property_, type_, ()))
            if "readonly" not in attributes:
                setter = f"set{property_[0].upper()}{property_[1:]}:"
                found[name].add(Method(setter, "void", (type_,)))
    return dict(found)


def _parenthesised(text: str) -> tuple[str, str]:
    """``(a (b)) rest`` -> ``a (b)``, ``rest``."""
    depth = 0
    for i, character in enumerate(text):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth == 0:
            return text[1:i], text[i + 1 :]
    raise ValueError(f"no closing parenthesis: {text}")


def _objc_method(declaration: str) -> Method:
    result, rest = _parenthesised(declaration.strip())
    selector, arguments = "", []
    while match := re.match(r"\s*(\w+)\s*:\s*", rest):
        type_, rest = _parenthesised(rest[match.end() :])
        selector += f"{match[1]}:"
        arguments.append(common_type(type_))
        rest = re.sub(r"^\s*\w+", "", rest)
    return Method(selector or rest.strip(), common_type(result), tuple(arguments))


def cpp_interface(folder: Path) -> dict[str, set[Method]]:
    """Methods by class name of metal-cpp: what each inline method sends."""
    bridge = (folder / "Metal" / "MTLHeaderBridge.hpp").read_text()
    pairs = re.findall(r"_MTL_PRIVATE_DEF_SEL\(\s*(\w+)\s*,\s*\"([^\"]+)\"", bridge)
    selectors = dict(pairs)
    found: dict[str, set[Method]] = defaultdict(set)
    pattern = (
        r"_MTL_INLINE\s+([^;{}]*?)\s*MTL::(\w+)::\w+\(([^{}]*?)\)(?:\s*const)?\s*\{"
        r"[^{}]*?_MTL_PRIVATE_SEL\((\w+)\)"
    )
    for header in sorted((folder / "Metal").glob("MTL*.hpp")):
        for result, class_, arguments, token in re.findall(pattern, header.read_text(), flags=re.S):
            types = [_cpp_parameter(a) for a in _split_arguments(arguments)]
            selector = selectors.get(token, token.replace("_", ":"))
            found[class_].add(Method(selector, common_type(result), tuple(types)))
    return dict(found)


def _split_arguments(arguments: str) -> list[str]:
    parts, depth = [""], 0
    for character in arguments:
        depth += {"(": 1, ")": -1, "<": 1, ">": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [p.strip() for p in parts if p.strip()]


def _cpp_parameter(text: str) -> str:
    if "^" in text:
        return "block"
    array = "*" if text.endswith("[]") else ""
    return common_type(re.sub(r"\w+(\[\])?$", "", text) + array)


def _values(body: str) -> dict[str, int]:
    values = {}
    for name, expression in re.findall(r"(\w+)\s*=\s*([\w\s<()|+-]+?)\s*(?:,|$)", body.strip()):
        if re.fullmatch(r"[\d\sx<()+-]+", expression):
            values[name] = int(eval(expression))
    return values


def stub_enumerators(header: str) -> dict[str, int]:
    """Name (without MTL) and value of every enumerator of the stub."""
    bodies = re.findall(
        r"NS_(?:ENUM|OPTIONS)\([^)]*\)\s*\{(.*?)\}", _uncommented(header), flags=re.S
    )
    return {n.removeprefix("MTL"): v for body in bodies for n, v in _values(body).items()}


def cpp_enumerators(folder: Path) -> dict[str, int]:
    values: dict[str, int] = {}
    for header in sorted((folder / "Metal").glob("MTL*.hpp")):
        pattern = r"_MTL_(?:ENUM|OPTIONS)\([^)]*\)\s*\{(.*?)\}"
        for body in re.findall(pattern, header.read_text(), flags=re.S):
            values.update(_values(body))
    return values


def _near(method: Method, candidates: set[Method]) -> str:
    same = [m for m in candidates if m.selector == method.selector]
    return f"metal-cpp has {same[0]}" if same else "metal-cpp sends no such selector"


def differences(header: str, folder: Path) -> list[str]:
    """What the stub header says and metal-cpp does not, one sentence each."""
    theirs = cpp_interface(folder)
    problems = []
    for class_, methods in stub_interface(header).items():
        candidates = set(theirs.get(class_, set()))
        for base in _BASES.get(class_, []):
            candidates |= theirs.get(base, set())
        for method in sorted(methods - candidates, key=lambda m: m.selector):
            problems.append(f"MTL{class_}: {method}: {_near(method, candidates)}")
    values = cpp_enumerators(folder)
    for name, value in stub_enumerators(header).items():
        if values.get(name) != value:
            problems.append(f"MTL{name} = {value}: metal-cpp has {values.get(name)}")
    return problems


def unpack(wheel: Path, folder: Path) -> Path:
    """Takes metal-cpp's headers out of an mlx-metal wheel; returns the folder to pass on."""
    with zipfile.ZipFile(wheel) as archive:
        names = [n for n in archive.namelist() if "/metal_cpp/" in n and n.endswith(".hpp")]
        if not names:
            raise FileNotFoundError(f"{wheel} has no metal_cpp: use a macOS wheel of mlx-metal.")
        archive.extractall(folder, names)
    return folder / names[0].split("/metal_cpp/")[0] / "metal_cpp"


def download(folder: Path) -> Path:
    """Fetches the wheel with pip."""
    platform = ["--platform", "macosx_14_0_arm64", "--python-version", "311"]
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*pip, *platform, "-d", str(folder), "mlx-metal"], check=True, timeout=600)
    return next(folder.glob("mlx_metal*.whl"))


def main(arguments: list[str]) -> int:
    """Prints the differences; returns 1 if there are any."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--headers", type=Path, help="a folder with Metal/MTLDevice.hpp")
    source.add_argument("--wheel", type=Path, help="a macOS wheel of mlx-metal")
    source.add_argument("--download", action="store_true", help="fetch that wheel with pip")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.headers
        if folder is None:
            wheel = download(Path(temporary)) if options.download else options.wheel
            folder = unpack(wheel, Path(temporary))
        problems = differences(STUB.read_text(), folder)
    header = STUB.read_text()
    n_methods = sum(len(m) for m in stub_interface(header).values())
    print("\n".join(problems))
    print(
        f"{n_methods} methods, {len(stub_enumerators(header))} enumerators, {len(problems)} differ"
    )
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
