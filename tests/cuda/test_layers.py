"""Training steps with each layer, captured on a GPU, beside torch's: tests/nn/trajectories.py."""

from __future__ import annotations

import pytest

from tests.nn.trajectories import CASES, assert_follows_torch


@pytest.mark.parametrize("name", CASES)
def test_captured_steps(name):
    assert_follows_torch(name, "cuda", steps=6)  # simulators are slow
