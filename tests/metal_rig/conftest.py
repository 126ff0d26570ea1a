"""What every test of the rig has: a time limit, and a plain answer where a package is missing."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from metal_rig import toolchain
from metal_rig.gpu.kernels import ARCHIVE_VARIABLE

TEST_SECONDS = 60


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "compiler: needs clang, also where kernels come compiled")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TEST_SECONDS))
        if item.get_closest_marker("compiler") is not None and ARCHIVE_VARIABLE in os.environ:
            item.add_marker(pytest.mark.skip(reason="kernels come compiled from elsewhere"))


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
    if reason is None or ARCHIVE_VARIABLE in os.environ:
        return
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
