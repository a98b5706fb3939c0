"""The contract tests: every test of a primitive runs on every backend module and in every memory layout.

    def test_relu(backend, layout, dtype): ...

`backend` is a module of flat functions (kernels/contract.py; of device cuda behind tests/device.py), whose results on
the CPU lie in memory full of NaN (tests/dirty.py). `layout` turns an array into an equal one in another memory order
(tests/layouts.py), `dtype` is each floating type that the backend serves, in turn.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from ml_dtypes import bfloat16

from tests import dirty
from tests.device import OnDevice
from tests.layouts import LAYOUTS
from tilegrad import kernels
from tilegrad.kernels.checks import SERVED
from tilegrad.kernels.contract import DEVICES
from tilegrad.kernels.device import gpu

DTYPES = {backend: [dtype.type for dtype in dtypes] for backend, dtypes in SERVED.items()}
ON_DEVICE = [backend for backend, device in DEVICES.items() if device == "cuda"]
MOST_SIMULATED = 1000  # elements of a shape: Numba's simulator takes 10 us and more for each


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every backend, with the dtypes that it serves; those of device cuda are GPU tests where there is a GPU."""
    marks = dict.fromkeys(ON_DEVICE, [pytest.mark.gpu] if gpu.is_available() else [])
    asked = set(metafunc.fixturenames) - _parametrized(metafunc)
    if {"backend", "dtype"} <= asked:
        each = [
            pytest.param(name, dtype, marks=marks.get(name, ()), id=f"{name}-{np.dtype(dtype)}")
            for name, dtypes in DTYPES.items()
            for dtype in dtypes
        ]
        metafunc.parametrize(("backend", "dtype"), each, indirect=["backend"])
    elif "backend" in asked:
        each = [pytest.param(name, marks=marks.get(name, ())) for name in DTYPES]
        metafunc.parametrize("backend", each, indirect=True)
    elif "dtype" in asked:
        metafunc.parametrize("dtype", DTYPES["reference"], ids=str)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What Numba's simulator would need seconds for is left to a GPU and to the other backends; bfloat16 to these.

    Where PTX is executed (make test-ptx), the backends of the CPU are left out: they do what they do without that.
    """
    is_left = _is_of_the_cpu if gpu.is_executed() else _is_large if gpu.is_simulated() else lambda _: False
    left_out = {item for item in items if _is_not_served(item) or is_left(item)}
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


def _is_not_served(item: pytest.Item) -> bool:
    """Whether a test chose bfloat16 itself and runs it on Numba, which has no such type."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return parameters.get("backend") == "numba" and any(v is bfloat16 for v in parameters.values())


def _is_of_the_cpu(item: pytest.Item) -> bool:
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    return parameters.get("backend") in DTYPES.keys() - set(ON_DEVICE)


def _is_large(item: pytest.Item) -> bool:
    parameters = getattr(item, "callspec", None) and item.callspec.params
    if not parameters or parameters.get("backend") != "numba":
        return False
    shapes = (v for v in parameters.values() if isinstance(v, tuple) and v and all(type(n) is int for n in v))
    return any(math.prod(shape) > MOST_SIMULATED for shape in shapes)


def _parametrized(metafunc: pytest.Metafunc) -> set[str]:
    names = (mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    return {name.strip() for each in names for name in (each.split(",") if isinstance(each, str) else each)}


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Iterator[Any]:
    module = kernels.load(request.param)
    with dirty.pool():
        yield OnDevice(module) if request.param in ON_DEVICE else module


@pytest.fixture(params=LAYOUTS.values(), ids=LAYOUTS.keys())
def layout(request: pytest.FixtureRequest):
    return request.param


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
