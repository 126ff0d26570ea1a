"""What tests of the product's kernels run them on: the rig, and on a Mac its GPU.

A test module that has only such tests says so with ``RUNS_ON_MACS = True``.
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING or platform.system() != "Darwin":
    from metal_rig.msl.runner import Library, run_kernel
else:
    from metal_rig.api.runner import Library, run_kernel

Order = Literal["forward", "reversed", "both"]

__all__ = ["Library", "Order", "run_kernel"]
