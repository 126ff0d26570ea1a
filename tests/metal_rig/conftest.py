"""What every test of the rig has: a time limit, and a plain answer where a package is missing."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from metal_rig import toolchain

TEST_SECONDS = 60


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TEST_SECONDS))


@pytest.fixture(autouse=True, scope="module")
def rig_packages(request: pytest.FixtureRequest) -> None:
    """Skips a module whose PACKAGES are not installed; where CI is "true" that is an error.

    A Mac runs the kernels of modules with RUNS_ON_MACS on its GPU.
    """
    if platform.system() == "Darwin" and getattr(request.module, "RUNS_ON_MACS", False):
        from metal_rig.api.runner import why_not

        reason = why_not()
    else:
        reason = toolchain.why_not(getattr(request.module, "PACKAGES", ()))
    if reason is None:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
