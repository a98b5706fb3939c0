"""The contract tests: every test of a primitive runs on every backend module and in every memory layout.

    def test_relu(backend, layout, dtype): ...

`backend` is a module of flat functions (kernels/__init__.py), `layout` turns an array into an equal one in
another memory order (tests/layouts.py), `dtype` is each floating type in turn.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

import kernels
from tests.layouts import LAYOUTS


@pytest.fixture(scope="session", params=kernels.BACKENDS)
def backend(request: pytest.FixtureRequest) -> ModuleType:
    return kernels.load(request.param)


@pytest.fixture(params=LAYOUTS.values(), ids=LAYOUTS.keys())
def layout(request: pytest.FixtureRequest):
    return request.param


@pytest.fixture(params=[np.float16, np.float32, np.float64], ids=["float16", "float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> type[np.floating]:
    return request.param


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
