"""Training steps with each layer, captured on the CPU, beside torch's: tests/nn/trajectories.py."""

from __future__ import annotations

import pytest

from tests.nn.trajectories import CASES, assert_follows_torch
from tilegrad import kernels


@pytest.mark.parametrize("name", CASES)
def test_twenty_captured_steps(name):
    with kernels.use("cpu"):
        assert_follows_torch(name, "cpu")
