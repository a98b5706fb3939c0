"""A captured step on the CPU follows the program around it (tests/captured/changes.py)."""

from __future__ import annotations

import pytest

from tests.captured.changes import *  # noqa: F403
from tilegrad import kernels


@pytest.fixture(autouse=True)
def _compiled_kernels():
    with kernels.use("cpu"):
        yield
