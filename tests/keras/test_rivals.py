"""Trainings of Keras' on tilegrad, step for step those on TensorFlow, JAX and torch."""

from __future__ import annotations

import json
import sys

import keras
import numpy as np
import pytest

from tests.keras import trajectory
from tilegrad.bench.keras_epochs import NETS

KEPT = json.loads(trajectory.PATH.read_text())
WITHIN = 2e-5  # of 1e-4 asked; the other backends are within 1e-6 of each other


@pytest.fixture(scope="module", params=NETS)
def ours(request):
    return request.param, trajectory.losses(keras, request.param)


@pytest.mark.parametrize("backend", trajectory.PACKAGES)
def test_30_losses_are_those_of(backend, ours):
    net, losses = ours
    want = KEPT[backend]["losses"][net]
    assert len(want) == len(losses) == 30 and want[-1] < want[0] / 2
    np.testing.assert_allclose(losses, want, rtol=0, atol=WITHIN)


def test_what_is_kept_is_what_torch_gives(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    found = trajectory.told(sys.executable, "torch")["losses"]
    for net in NETS:
        np.testing.assert_allclose(found[net], KEPT["torch"]["losses"][net], rtol=0, atol=WITHIN)


def test_what_is_kept_is_of_the_keras_that_the_tests_run_with():
    assert {kept["versions"]["keras"] for name, kept in KEPT.items() if name != "provenance"} == {"3.15.1"}
