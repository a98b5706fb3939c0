"""A captured step and its optimizer on the CPU: tests/captured_updates.py."""

from __future__ import annotations

import pytest

import kernels
from tests.captured_updates import *  # noqa: F403


@pytest.fixture(autouse=True, params=["cpu", "reference"])
def _backend(request):
    with kernels.use(request.param):
        yield
