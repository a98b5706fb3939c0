"""Which ceiling a call is compared with."""

from __future__ import annotations

import numpy as np
import pytest

from tilegrad.kernels.checks import bfloat16
from tilegrad.kernels.device import gpu
from tilegrad.kernels.timing import ceilings

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


@pytest.fixture
def asked(monkeypatch):
    """What is measured; a copy is found to move 1e9 bytes a second, a product to compute 1e9 FLOP."""
    found = []
    monkeypatch.setattr(ceilings, "_copy", lambda *args: found.append(args) or 1e9)
    monkeypatch.setattr(ceilings, "_product", lambda *args: found.append(args) or 1e9)
    return found


def test_what_takes_longer_is_the_ceiling(asked):
    assert ceilings.of_call("cpu", FLOAT32, 3 * 10**9, 2 * 10**9) == 3
    assert ceilings.of_call("cpu", FLOAT32, 10**9, 2 * 10**9) == 2
    assert ceilings.of_call("cpu", FLOAT32, 10**9, 0) == 1
    assert ceilings.of_call("cpu", FLOAT32, 0, 0) is None


def test_a_copy_moves_about_as_many_bytes(asked):
    for nbytes in (1, 1 << 16, (1 << 20) - 5, 1 << 20, (1 << 20) + 1, 1 << 40):
        ceilings.bandwidth("cpu", nbytes)
    assert [size for _, size in asked] == [1 << 16, 1 << 16, 1 << 20, 1 << 20, 1 << 21, 1 << 27]


def test_a_product_is_in_the_type_that_kernels_compute_in(asked):
    for dtype in (FLOAT32, FLOAT64, np.dtype(np.float16), bfloat16, np.dtype(np.int64)):
        ceilings.products("cpu", dtype)
    for dtype in (FLOAT32, np.dtype(np.float16), bfloat16):
        ceilings.products("cuda", dtype)
    types = ["float32", "float64", "float32", "float32", "float32", "float32", "float16", "float16"]
    assert [dtype for _, dtype in asked] == types


def test_a_simulated_device_has_none(asked):
    if not gpu.is_simulated():
        pytest.skip("there is a GPU")
    assert ceilings.of_call("cuda", FLOAT32, 100, 100) is None and asked == []


def test_what_is_measured_is_measured_once():
    rates = [ceilings.bandwidth("cpu", 1 << 20), ceilings.products("cpu", FLOAT32)]
    assert 1e8 < rates[0] < 1e13 and 1e8 < rates[1] < 1e14
    assert rates == [ceilings.bandwidth("cpu", 1 << 20), ceilings.products("cpu", FLOAT32)]
