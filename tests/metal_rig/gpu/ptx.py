"""Reads PTX: what a kernel takes, and whether it keeps what a GPU needs of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

THREADGROUP_LIMIT = 32 << 10  # Metal's, in bytes
_SPACES = {"global", "shared", "local", "param", "const"}
_ACCESSES = {"ld", "ldu", "st", "atom", "red"}
_VECTORS = {"v2": 2, "v4": 4, "v8": 8}
_INSTRUCTION = re.compile(r"^(?:@!?%p\d+\s+)?([a-z]\w*(?:[.:]\w+)*)\s+(.*?);?$")
_ARRAY = re.compile(r"\.shared\s+(?:\.align\s+\d+\s+)?\.b(\d+)\s+(\w+)(?:\[(\d+)\])?")


@dataclass(frozen=True)
class Load:
    """A load of device memory."""

    n_bytes: int
    parameters: frozenset[int]  # of the kernel, from which the address may come


@dataclass
class Kernel:
    """One entry of a PTX module."""

    symbol: str
    signature: list[int]  # a number for each parameter, as msl_abi.h says
    loads: list[Load] = field(default_factory=list)
    generic: list[str] = field(default_factory=list)  # accesses without an address space
    threadgroup_bytes: int = 0  # of its variables

    def loads_of_buffer(self, index: int) -> list[int]:
        """Bytes of every load that may read the buffer at an index of the argument table."""
        slots = [i for i, code in enumerate(self.signature) if is_buffer(code)]
        numbers = {n for n, i in enumerate(slots) if self.signature[i] % 256 == index}
        return [load.n_bytes for load in self.loads if load.parameters & numbers]


def is_buffer(code: int) -> bool:
    return code % 65536 // 256 == 0


def is_threadgroup(code: int) -> bool:
    return code % 65536 // 256 == 1


def is_writable(code: int) -> bool:
    return code >= 65536


def parse(text: str) -> list[Kernel]:
    """All entries of a module made by metal_rig.msl.compiler."""
    signatures = {
        name: np.array(numbers.split(","), np.uint8).view(np.int32).tolist()[:-1]
        for name, numbers in re.findall(r"\b(\w+)_signature\[\d+\] = \{([\d, ]+)\}", text)
    }
    shared = {name: _array_bytes(m) for m in _ARRAY.finditer(text) for name in [m[2]]}
    kernels = []
    for match in re.finditer(r"\.visible \.entry (\w+)\(.*?\n\)", text, re.S):
        end = text.index("\n}", match.end())
        kernel = Kernel(match[1], signatures[match[1]])
        body = text[match.end() : end]
        words = set(re.findall(r"\w+", body))
        kernel.threadgroup_bytes = sum(n for name, n in shared.items() if name in words)
        _read(kernel, body)
        kernels.append(kernel)
    return kernels


def _array_bytes(match: re.Match[str]) -> int:
    return int(match[1]) // 8 * int(match[3] or 0)  # no length: the launch gives it


def _read(kernel: Kernel, body: str) -> None:
    """Follows addresses from the parameters to the loads; a register may be written in a loop."""
    instructions = []
    for line in body.splitlines():
        match = _INSTRUCTION.match(line.strip())
        if match:
            instructions.append((match[1].split("."), match[2]))
    origins: dict[str, frozenset[int]] = {}
    while True:
        before = dict(origins)
        for words, operands in instructions:
            _follow(words, operands, origins)
        if origins == before:
            break
    for words, operands in instructions:
        if words[0] not in _ACCESSES:
            continue
        if not _SPACES & set(words):
            kernel.generic.append(f"{'.'.join(words)} {operands}")
        if words[0] in ("ld", "ldu") and "global" in words:
            address = operands[operands.rindex("[") :]
            sources = [origins.get(r, frozenset()) for r in re.findall(r"%rd\d+", address)]
            kernel.loads.append(Load(_access_bytes(words), frozenset().union(*sources)))


def _follow(words: list[str], operands: str, origins: dict[str, frozenset[int]]) -> None:
    registers = re.findall(r"%rd\d+", operands)
    if words[:2] == ["ld", "param"]:
        number = re.search(r"_param_(\d+)", operands)
        if number and registers:
            origins[registers[0]] = frozenset([int(number[1])])
    elif words[0] not in _ACCESSES and len(registers) > 1 and operands.startswith("%rd"):
        found = frozenset().union(*(origins.get(r, frozenset()) for r in registers[1:]))
        origins[registers[0]] = origins.get(registers[0], frozenset()) | found


def _access_bytes(words: list[str]) -> int:
    bits = int(re.sub(r"\D", "", words[-1]))
    return bits // 8 * next((n for word, n in _VECTORS.items() if word in words), 1)


@dataclass(frozen=True)
class Promise:
    """How wide a kernel reads a buffer."""

    buffer: int
    least: int  # bytes of its narrowest load
    some: int = 0  # at least one load has this many bytes


def problems(
    kernel: Kernel, promises: tuple[Promise, ...] = (), dynamic_bytes: int = 0
) -> list[str]:
    """What is wrong with a kernel that takes `dynamic_bytes` of threadgroup memory, in words."""
    found = [f"{kernel.symbol}: generic access {access}" for access in kernel.generic]
    if kernel.threadgroup_bytes + dynamic_bytes > THREADGROUP_LIMIT:
        total = kernel.threadgroup_bytes + dynamic_bytes
        found.append(f"{kernel.symbol}: {total} bytes of threadgroup memory")
    for promise in promises:
        widths = kernel.loads_of_buffer(promise.buffer)
        if not widths:
            found.append(f"{kernel.symbol}: no load of buffer {promise.buffer}")
        elif min(widths) < promise.least or max(widths) < promise.some:
            bytes_ = sorted(set(widths))
            found.append(f"{kernel.symbol}: loads of buffer {promise.buffer} have {bytes_} bytes")
    return found
