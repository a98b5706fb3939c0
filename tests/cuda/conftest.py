"""Device "cuda" in the engine: simulated where there is no GPU (tests/conftest.py), otherwise the GPU, marked so."""

from __future__ import annotations

from pathlib import Path

import pytest

from tilegrad.kernels.device import gpu


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if gpu.is_available() and here in item.path.parents:
            item.add_marker(pytest.mark.gpu)
