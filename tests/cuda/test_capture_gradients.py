"""A captured step and its gradients on a GPU: tests/captured_gradients.py."""

from __future__ import annotations

import pytest

from tests.captured_gradients import *  # noqa: F403
from tests.captured_gradients import check_a_call_that_fails
from tests.captured_steps import ON


@pytest.fixture(autouse=True)
def _on_the_gpu(monkeypatch):
    monkeypatch.setitem(ON, "device", "cuda")


def test_a_call_that_fails_leaves_what_the_function_leaves():
    check_a_call_that_fails("loss first", row=0, at=3)
