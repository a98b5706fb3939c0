"""A captured step on the CPU follows the program around it (tests/captured_changes.py)."""

from __future__ import annotations

import pytest

import kernels
from tests.captured_changes import *  # noqa: F403


@pytest.fixture(autouse=True)
def _compiled_kernels():
    with kernels.use("cpu"):
        yield
