"""What the Numba optimizers do on a device alone: scalars in its memory, one launch for all, tables of addresses."""

from __future__ import annotations

import numpy as np
import pytest

from tests.compare import assert_close, assert_same
from tilegrad import kernels
from tilegrad.kernels.device import gpu
from tilegrad.kernels.optimizer.reference import adam_factors

pytestmark = [pytest.mark.gpu] if gpu.is_available() else []

REFERENCE = kernels.load("reference")


@pytest.fixture
def numba():
    return kernels.load("numba")


@pytest.fixture
def launched(monkeypatch, numba):
    """The names of the kernels launched, in order; no table is remembered from before."""
    from tilegrad.kernels.launch.numba_kernel import Kernel
    from tilegrad.kernels.multi_tensor import gpu_numba as table_numba

    names, call = [], Kernel.__call__

    def counting(self, *args):
        names.append(self.name)
        call(self, *args)

    monkeypatch.setattr(Kernel, "__call__", counting)
    monkeypatch.setattr(table_numba.TABLES, "remembered", {})
    return names


def lists(rng, shapes, dtype=np.float32):
    """params, grads, exp_avgs, exp_avg_sqs on the host."""
    dtypes = dtype, dtype, np.float32, np.float32
    return [[np.asarray(rng.random(s) + 0.5).astype(kind) for s in shapes] for kind in dtypes]


def to_device(host):
    return [[gpu.xp().asarray(a) for a in each] for each in host]


def check_adam(device, host, *numbers, **options):
    """What became of the arrays on the device, against the reference in float64; `numbers` are its step and lr."""
    baseline = [[a.copy() for a in each] for each in host]
    want = [[a.astype(np.float64) for a in each] for each in host]
    REFERENCE.adam_step(*baseline, *numbers, **options)
    REFERENCE.adam_step(*want, *numbers, **options)
    for each in zip(device, want, baseline, strict=True):
        for got, w, b in zip(*each, strict=True):
            assert_close(gpu.xp().asnumpy(got), w, b, scale=1.0)
    if gpu.is_simulated():
        gpu.xp().assert_guards("adam_step", *(a for each in device for a in each))


@pytest.mark.parametrize("step", [1, 300])
def test_lr_and_factors_in_device_memory_give_the_bits_that_numbers_give(numba, step, rng):
    xp, host = gpu.xp(), lists(rng, [(57,), (5, 10)])
    lr = xp.asarray(np.array(0.05, np.float32))
    factors = xp.asarray(np.array(adam_factors(step, 0.9, 0.999, eps_hat=True), np.float32))
    runs = []
    for numbers in ((step, 0.05), (factors, lr)):
        device = to_device(host)
        numba.adam_step(*device, *numbers, weight_decay=0.1, decoupled=True, eps_hat=True)
        runs.append([xp.asnumpy(a) for each in device for a in each])
    check_adam(device, host, step, 0.05, weight_decay=0.1, decoupled=True, eps_hat=True)
    assert lr.item() == np.float32(0.05)

    for rate in (0.05, lr):
        p, g, b = to_device(host[:3])
        numba.sgd_step(p, g, b, rate, momentum=0.9)
        numba.sgd_step(p, g, b, rate, momentum=0.9, nesterov=True, velocity=True)
        runs.append([xp.asnumpy(a) for a in p + b])
    for numbers, memory in (runs[:2], runs[2:]):
        for got, want in zip(memory, numbers, strict=True):
            assert_same(got, want)


def test_20_tensors_are_one_launch(numba, rng, launched):
    """Of several sizes, some of more than one block, some empty; their table is filled once, by several launches."""
    host = lists(rng, [(i % 4 * 50, 1 + i % 3) for i in range(20)])
    device = to_device(host)
    numba.adam_step(*device, 3, 0.1)
    check_adam(device, host, 3, 0.1)
    assert launched == ["_fill_kernel"] * 3 + ["_adam_kernel"]  # 15 columns of 6 numbers, 32 a launch
    launched.clear()
    numba.adam_step(*device, 4, 0.1)
    assert launched == ["_adam_kernel"]


def test_mixed_dtypes_are_a_launch_each(numba, rng, launched):
    halves, floats = (lists(rng, [(5,), (2, 3)], dtype) for dtype in (np.float16, np.float32))
    host = [[b[0], a[0], b[1], a[1]] for a, b in zip(halves, floats, strict=True)]
    device = to_device(host)
    numba.adam_step(*device, 3, 0.25)
    check_adam(device, host, 3, 0.25)
    assert launched.count("_adam_kernel") == 2


def test_nothing_to_do_is_no_launch(numba, rng, launched):
    empty = to_device(lists(rng, [(0,), (0, 3)]))
    numba.adam_step(*empty, 1, 0.1)
    numba.sgd_step(*empty[:3], 0.1, momentum=0.9)
    assert launched == []


def test_gradients_at_other_addresses_are_found(numba, rng, launched):
    """A table that was remembered is not used for arrays that lie elsewhere."""
    (p, *_), (g, *_), *_ = lists(rng, [(5,)])
    (param,), (grad,) = to_device([[p], [g]])
    kept = [grad * (i + 1) for i in range(3)]
    for each in kept:
        numba.sgd_step([param], [each], None, 0.5)
    want = p.astype(np.float64) - 3.0 * g.astype(np.float64)
    assert_close(gpu.xp().asnumpy(param), want, want.astype(np.float32), scale=1.0)
    assert launched == ["_fill_kernel", "_sgd_kernel"] * 3


def test_nothing_is_remembered_while_a_stream_is_captured(numba, rng, launched, monkeypatch):
    """A graph that read a table of the memo would read freed memory once that is forgotten."""
    monkeypatch.setattr("tilegrad.kernels.multi_tensor.gpu_numba.TABLES._stream", lambda: None)
    device = to_device(lists(rng, [(5,)]))
    numba.adam_step(*device, 1, 0.1)
    numba.adam_step(*device, 2, 0.1)
    assert launched == ["_fill_kernel", "_adam_kernel"] * 2


WRONG_SCALARS = [
    ("lr", (1,), np.float32, r"lr is an array of shape \(1,\); expected a number or a 0-d array"),
    (
        "step",
        (2,),
        np.float64,
        r"step is an array of float64 \(2,\); expected a number, or .* as float32 \(3,\)",
    ),
]


@pytest.mark.parametrize("name, shape, dtype, message", WRONG_SCALARS)
def test_wrong_scalars_in_device_memory(numba, name, shape, dtype, message, rng, launched):
    numbers = {"step": 1, "lr": 0.1, name: gpu.xp().zeros(shape, dtype)}
    with pytest.raises(TypeError, match=f"^adam_step: {message}$"):
        numba.adam_step(*to_device(lists(rng, [(3,)])), **numbers)
    assert launched == []
