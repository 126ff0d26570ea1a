"""What the system says this process holds."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path


def resident_bytes() -> int:
    """Memory that is in RAM now; its peak where the system does not tell (macOS)."""
    return _status("VmRSS") or peak_resident_bytes()


def peak_resident_bytes() -> int:
    """The most that has been in RAM since the process began."""
    # Linux lets a child inherit its parent's peak in getrusage, but not in this file.
    if found := _status("VmHWM"):
        return found
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _status(key: str) -> int:
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return 0
    found = re.search(rf"^{key}:\s*(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
