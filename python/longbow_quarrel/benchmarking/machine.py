"""What a figure was measured on: enough to tell machines apart, nothing that names one."""

from __future__ import annotations

import dataclasses
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

import longbow_quarrel
from longbow_quarrel import _core
from longbow_quarrel.config import total_memory_bytes, usable_cores
from longbow_quarrel.device import describe


@dataclass(frozen=True)
class Machine:
    """A class of machine and the software on it.

    Attributes:
        cpu: the processor's name, as the system gives it.
        device: what computed: ``cpu`` or ``metal``.
        isa: the CPU device's instruction set; empty on other devices.
        load: the system's load average of the last minute when this was made.
    """

    cpu: str
    n_cores: int
    memory_bytes: int
    system: str
    python: str
    version: str
    device: str
    isa: str
    n_threads: int
    load: float

    def is_like(self, other: Machine) -> bool:
        """Whether figures of the two may be compared: all but software and load agree."""
        ignored = ("system", "python", "version", "load")
        return all(
            getattr(self, field.name) == getattr(other, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ignored
        )

    def sentence(self) -> str:
        """In one line, for a report."""
        isa = f", {self.isa}" if self.isa else ""
        return (
            f"{self.cpu}, {self.n_cores} cores, {self.memory_bytes / 2**30:.0f} GiB; {self.device}"
            f"{isa}, {self.n_threads} threads; {self.system}, Python {self.python}, "
            f"longbow-quarrel {self.version}; load {self.load:.1f}"
        )


def describe_machine(device: _core.Device) -> Machine:
    """The machine that this process runs on, computing on ``device``."""
    facts = describe(device)
    return Machine(
        cpu=_cpu_name(),
        n_cores=usable_cores(),
        memory_bytes=total_memory_bytes(),
        system=platform.system(),
        python=platform.python_version(),
        version=longbow_quarrel.__version__,
        device=str(facts["name"]),
        isa=str(facts.get("isa", "")),
        n_threads=int(facts.get("n_threads", 1)),
        load=round(os.getloadavg()[0], 2),
    )


def _cpu_name() -> str:
    """The model's name on Linux; elsewhere the architecture."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.machine()
