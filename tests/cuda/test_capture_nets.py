"""Whole nets of tests/captured/nets.py in a captured step on a GPU, few steps of each: simulators are slow."""

from __future__ import annotations

import pytest

from tests.captured.nets import NETS, assert_as_plain
from tests.captured.steps import ON


@pytest.fixture(autouse=True)
def _on_the_gpu(monkeypatch):
    monkeypatch.setitem(ON, "device", "cuda")


@pytest.mark.parametrize(
    "net", ["convolutions with batch norm", "residual", "transformer", "recurrent", "a loss by hand"]
)
def test_a_net_trains_and_evaluates_as_it_does_plainly(net):
    assert_as_plain(*NETS[net], "adam", train=3, evaluate=2, n=2)


@pytest.mark.parametrize("net", ["recurrent", "bce"])
def test_several_steps_at_once(net):
    assert_as_plain(*NETS[net], "sgd", steps=2, train=2, evaluate=2, n=2)
