"""A captured step and its gradients on a GPU: tests/captured/gradients.py."""

from __future__ import annotations

import pytest

from tests.captured.gradients import *  # noqa: F403
from tests.captured.gradients import FEW, check_a_call_that_fails
from tests.captured.steps import ON
from tests.captured.updates import parametrize


def pytest_generate_tests(metafunc):
    parametrize(metafunc, FEW)


@pytest.fixture(autouse=True)
def _on_the_gpu(monkeypatch):
    monkeypatch.setitem(ON, "device", "cuda")


def test_a_call_that_fails_leaves_what_the_function_leaves():
    check_a_call_that_fails("loss first", row=0, at=3)
