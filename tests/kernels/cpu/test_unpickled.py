"""Arrays that were pickled have a dtype object of their own; the compiled kernels serve them as they serve any."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from tests.compare import assert_same
from tilegrad import kernels


@pytest.fixture
def cpu():
    return kernels.load("cpu")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def unpickled(x):
    twin = pickle.loads(pickle.dumps(x))
    assert twin.dtype == x.dtype and twin.dtype is not x.dtype
    return twin


def served(monkeypatch, module, name):
    """Whatever reaches the reference is an error."""

    def refuse(*_, **__):
        raise AssertionError(f"{name} went to the reference")

    monkeypatch.setattr(f"tilegrad.kernels.{module}.{name}", refuse)


def test_matmul(cpu, rng, monkeypatch):
    served(monkeypatch, "matmul.reference", "matmul")
    a, b, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((64, 300), (300, 96), (96,)))
    want = cpu.matmul(a, b, bias, "relu")
    assert_same(cpu.matmul(unpickled(a), unpickled(b), unpickled(bias), "relu"), want)


def test_adam(cpu, rng, monkeypatch):
    served(monkeypatch, "optimizer.reference", "adam_step")
    arrays = [np.abs(rng.standard_normal((37, 5))).astype(np.float32) for _ in range(4)]
    twins = [unpickled(x) for x in arrays]
    for each in (arrays, twins):
        cpu.adam_step(*[[x] for x in each], 3, 0.1, weight_decay=0.1)
    for got, want in zip(twins, arrays, strict=True):
        assert_same(got, want)


def test_softmax_xent_and_relu(cpu, rng):
    z, t = rng.standard_normal((8, 10)).astype(np.float32), rng.integers(0, 10, 8)
    for got, want in zip(cpu.softmax_xent(unpickled(z), t), cpu.softmax_xent(z, t), strict=True):
        assert_same(np.asarray(got), np.asarray(want))
    assert_same(cpu.relu_grad(unpickled(z), unpickled(z)), cpu.relu_grad(z, z))
