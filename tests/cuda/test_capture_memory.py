"""Captured steps on a GPU leave no memory behind (tests/captured_memory.py)."""

from __future__ import annotations

import pytest

from tests.captured_memory import *  # noqa: F403
from tests.captured_steps import ON


@pytest.fixture(autouse=True)
def _on_the_gpu(monkeypatch):
    monkeypatch.setitem(ON, "device", "cuda")
