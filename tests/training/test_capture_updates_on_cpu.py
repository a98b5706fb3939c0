"""A captured step and its optimizer on the CPU: tests/captured_updates.py."""

from __future__ import annotations

import pytest

import kernels
from tests.captured_updates import *  # noqa: F403
from tests.captured_updates import CASES, parametrize


def pytest_generate_tests(metafunc):
    parametrize(metafunc, CASES)


@pytest.fixture(autouse=True, params=["cpu", "reference"])
def _backend(request):
    with kernels.use(request.param):
        yield
