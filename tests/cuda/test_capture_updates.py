"""A captured step and its optimizer on a GPU: tests/captured/updates.py."""

from __future__ import annotations

import pytest

from tests.captured.steps import ON
from tests.captured.updates import *  # noqa: F403
from tests.captured.updates import FEW, parametrize


def pytest_generate_tests(metafunc):
    parametrize(metafunc, FEW)


@pytest.fixture(autouse=True)
def _on_the_gpu(monkeypatch):
    monkeypatch.setitem(ON, "device", "cuda")
