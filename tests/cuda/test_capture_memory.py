"""Captured steps on a GPU leave no memory behind (tests/captured/memory.py)."""

from __future__ import annotations

import pytest

from tests.captured.memory import *  # noqa: F403
from tests.captured.steps import ON


@pytest.fixture(autouse=True)
def _on_the_gpu(monkeypatch):
    monkeypatch.setitem(ON, "device", "cuda")
