"""A captured step on a GPU follows the program around it (tests/captured/changes.py)."""

from __future__ import annotations

import pytest

from tests.captured.changes import *  # noqa: F403
from tests.captured.steps import ON


@pytest.fixture(autouse=True)
def _on_the_gpu(monkeypatch):
    monkeypatch.setitem(ON, "device", "cuda")
