"""What adam_step and sgd_step do on a device alone: scalars in its memory, one launch for all, tables of addresses."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tests.compare import assert_close, assert_same
from tests.device import to_device as moved
from tests.layouts import backwards, channels_last, framed, transposed
from tilegrad import kernels
from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch.triton_kernel import Kernel
from tilegrad.kernels.multi_tensor import gpu_triton as table_triton
from tilegrad.kernels.multi_tensor.arrays import in_one_order
from tilegrad.kernels.optimizer.reference import adam_factors

pytestmark = [pytest.mark.gpu] if gpu.is_available() else []

REFERENCE = kernels.load("reference")
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@pytest.fixture
def triton():
    return kernels.load("triton")


@pytest.fixture
def launched(monkeypatch):
    """The names of the kernels launched, in order."""
    names, call = [], Kernel.__call__

    def counting(self, *args, **kwargs):
        names.append(self.name)
        call(self, *args, **kwargs)

    monkeypatch.setattr(Kernel, "__call__", counting)
    return names


@pytest.fixture
def tables(monkeypatch):
    monkeypatch.setattr(table_triton.TABLES, "remembered", {})
    return table_triton.TABLES.remembered


def lists(rng, shapes, dtype=np.float32):
    """params, grads, exp_avgs, exp_avg_sqs on the host."""
    dtypes = dtype, dtype, np.float32, np.float32
    return [[np.asarray(rng.random(s) + 0.5).astype(kind) for s in shapes] for kind in dtypes]


def to_device(host):
    return [[gpu.xp().asarray(a) for a in each] for each in host]


def on_host(device):
    return [[gpu.xp().asnumpy(a) for a in each] for each in device]


def check_adam(device, host, *numbers, **options):
    """What became of the arrays on the device, against the reference in float64; `numbers` are its step and lr."""
    baseline = [[a.copy() for a in each] for each in host]
    want = [[a.astype(np.float64) for a in each] for each in host]
    REFERENCE.adam_step(*baseline, *numbers, **options)
    REFERENCE.adam_step(*want, *numbers, **options)
    for each in zip(on_host(device), want, baseline, strict=True):
        for got, w, b in zip(*each, strict=True):
            assert_close(got, w, b, scale=1.0)
    if gpu.is_simulated():
        gpu.xp().assert_guards("adam_step", *(a for each in device for a in each))


# --- lr and step in device memory


def factors(step, beta1=0.9, beta2=0.999, eps_hat=False):
    """The two numbers of device memory that a step count gives."""
    return gpu.xp().asarray(np.array(adam_factors(step, beta1, beta2, eps_hat), np.float32))


@pytest.mark.parametrize("step", [1, 2, 300])
def test_lr_and_factors_in_device_memory_give_the_bits_that_numbers_give(triton, step, rng):
    xp, host = gpu.xp(), lists(rng, [(257,), (5, 10)])
    lr = xp.asarray(np.array(0.05, np.float32))
    runs = []
    for numbers in ((step, 0.05), (factors(step, 0.5, 0.75, eps_hat=True), lr)):
        device = to_device(host)
        triton.adam_step(*device, *numbers, beta1=0.5, beta2=0.75, weight_decay=0.1, decoupled=True, eps_hat=True)
        runs.append(on_host(device))
    check_adam(device, host, step, 0.05, beta1=0.5, beta2=0.75, weight_decay=0.1, decoupled=True, eps_hat=True)
    assert lr.item() == np.float32(0.05)

    params, grads, momenta, _ = host
    for rate in (0.05, lr):
        p, g, b = to_device([params, grads, momenta])
        triton.sgd_step(p, g, b, rate, momentum=0.9)
        triton.sgd_step(p, g, b, rate, momentum=0.9, nesterov=True, velocity=True)
        runs.append(on_host([p, b]))
    for numbers, memory in (runs[:2], runs[2:]):
        for got, want in zip(sum(memory, []), sum(numbers, []), strict=True):
            assert_same(got, want)


def test_what_is_read_is_the_value_at_the_launch(triton, rng, tables):
    """The same arrays, written in place between the launches, as a captured step is replayed."""
    xp, host = gpu.xp(), lists(rng, [(10,)])
    device, now, lr = to_device(host), xp.zeros(3, np.float32), xp.zeros((), np.float32)
    for i in range(1, 4):
        now[...], lr[...] = factors(i), 0.1 / i
        triton.adam_step(*device, now, lr)
    want = [[a.astype(np.float64) for a in each] for each in host]
    for i in range(1, 4):
        REFERENCE.adam_step(*want, i, 0.1 / i)
    assert_close(on_host(device)[0][0], want[0][0], want[0][0].astype(np.float32), scale=1.0)
    assert len(tables) == 1


SCALAR_ERRORS = [
    ("lr", (1,), np.float32, r"lr is an array of shape \(1,\); expected a number or a 0-d array"),
    (
        "step",
        (),
        np.int64,
        r"step is an array of int64 \(\); expected a number, or .* as float32 \(3,\)",
    ),
    ("lr", (), np.float16, "lr is float16; expected one of float32, float64, int32, int64"),
]


@pytest.mark.parametrize("name, shape, dtype, message", SCALAR_ERRORS)
def test_wrong_scalars_in_device_memory(triton, name, shape, dtype, message, rng, launched):
    numbers = {"step": 1, "lr": 0.1, name: gpu.xp().zeros(shape, dtype)}
    device = to_device(lists(rng, [(3,)]))
    with pytest.raises(TypeError, match=f"^adam_step: {message}$"):
        triton.adam_step(*device, **numbers)
    if name == "lr":
        with pytest.raises(TypeError, match=f"^sgd_step: {message}$"):
            triton.sgd_step(*device[:3], numbers["lr"], momentum=0.9)
    assert launched == []


# --- one launch


def test_70_tensors_are_one_launch(triton, rng, launched, tables):
    """Of as many sizes, whose table is filled by several launches, the first time only."""
    host = lists(rng, [(1 + i % 7, 1 + i % 3) for i in range(70)])
    device = to_device(host)
    triton.adam_step(*device, 3, 0.1)
    check_adam(device, host, 3, 0.1)
    assert launched == ["_fill_kernel"] * 7 + ["_adam_kernel"]  # 70 columns of 6 numbers, 64 a launch
    launched.clear()
    triton.adam_step(*device, 4, 0.1)
    assert launched == ["_adam_kernel"]


def test_more_tensors_than_one_launch_takes(triton, rng, launched, monkeypatch):
    monkeypatch.setattr("tilegrad.kernels.multi_tensor.gpu_triton.MOST_TENSORS", 2)
    host = lists(rng, [(3,), (2,), (1,)])
    device = to_device(host)
    triton.adam_step(*device, 3, 0.1)
    check_adam(device, host, 3, 0.1)
    assert launched.count("_adam_kernel") == 2


def test_a_tensor_of_several_blocks_between_small_ones(triton, rng, launched):
    """Blocks without a mask, a last one with; sizes that a program could take from the tensor before or behind."""
    host = lists(rng, [(7,), (2, 1024), (0,), (1, 1025), ()])
    device = to_device(host)
    triton.adam_step(*device, 3, 0.1)
    check_adam(device, host, 3, 0.1)
    assert launched.count("_adam_kernel") == 1


def test_mixed_dtypes_are_a_launch_each(triton, rng, launched):
    each = [lists(rng, [(5,), (2, 3)], dtype) for dtype in (np.float16, BFLOAT16, np.float32)]
    host = [sum((each[i][k] for i in (0, 1, 2)), []) for k in range(4)]
    host = [[a[i] for i in (0, 2, 4, 1, 3, 5)] for a in host]  # interleaved
    device = to_device(host)
    before = [a.copy() for a in host[0]]
    triton.adam_step(*device, 3, 0.25)
    assert launched.count("_adam_kernel") == 3
    want = [[a.astype(np.float64) for a in x] for x in host]
    REFERENCE.adam_step(*want, 3, 0.25)
    for got, w, p in zip(on_host(device)[0], want[0], before, strict=True):
        assert_close(got, w, w.astype(p.dtype), scale=1.0)


def test_nothing_to_do_is_no_launch(triton, rng, launched):
    empty = to_device(lists(rng, [(0,), (0, 3)]))
    triton.adam_step(*empty, 1, 0.1)
    triton.sgd_step(*empty[:3], 0.1, momentum=0.9)
    triton.adam_step([], [], [], [], 1, 0.1)
    assert launched == []


# --- tables


def test_gradients_at_other_addresses_are_found(triton, rng, tables):
    """A table that was remembered is not used for arrays that lie elsewhere."""
    host = lists(rng, [(5,), (2, 3)])
    device = to_device(host)
    for i in range(3):
        grads = [a * (i + 1) for a in device[1]]
        triton.sgd_step(device[0], grads, None, 0.5)
    for got, p, g in zip(device[0], host[0], host[1], strict=True):
        want = p.astype(np.float64) - 3.0 * g.astype(np.float64)
        assert_close(gpu.xp().asnumpy(got), want, want.astype(np.float32), scale=1.0)
    assert 0 < len(tables) <= 3


def test_the_tables_remembered_are_bounded(triton, tables, monkeypatch):
    monkeypatch.setattr("tilegrad.kernels.multi_tensor.arrays._REMEMBERED", 3)
    xp = gpu.xp()
    kept = [(xp.zeros(2, np.float32), xp.ones(2, np.float32)) for _ in range(5)]
    for _ in range(2):
        for p, g in kept:
            triton.sgd_step([p], [g], None, 0.5)
            assert len(tables) <= 3
    for p, _ in kept:
        assert_same(xp.asnumpy(p), np.full(2, -1, np.float32))


def test_nothing_is_remembered_while_a_stream_is_captured(triton, rng, tables, launched, monkeypatch):
    """A graph that read a table of the memo would read freed memory once that is forgotten."""
    monkeypatch.setattr(table_triton.TABLES, "_stream", lambda: None)
    host = lists(rng, [(5,)])
    device = to_device(host)
    triton.adam_step(*device, 1, 0.1)
    check_adam(device, host, 1, 0.1)
    triton.adam_step(*device, 2, 0.1)
    assert launched == ["_fill_kernel", "_adam_kernel"] * 2
    assert tables == {}


# --- memory


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("place", [transposed, channels_last, backwards, framed])
def test_any_memory_order_of_parameters_and_gradients(triton, place, dtype, rng, launched):
    """What is updated is the array given, also where the kernel worked on a copy."""
    (p,), (g,), (m,), (v,) = host = lists(rng, [(2, 3, 4)], dtype)
    device = [[moved(place(p))], [moved(g)], [moved(place(m))], [moved(v)]]
    triton.adam_step(*device, 3, 0.1)
    check_adam(device, host, 3, 0.1)
    assert launched.count("_adam_kernel") == 1


def test_moments_in_the_order_of_a_half_parameter_are_not_copied(rng):
    """Their strides in bytes differ, their order does not."""
    xp = gpu.xp()
    p, m = xp.empty((4, 3), np.float16).T, xp.empty((4, 3), np.float32).T
    ((first, gradient, second, third),), copies = in_one_order(
        [[p], [xp.ones((3, 4), np.float16)], [m], [v := xp.empty((3, 4), np.float32)]]
    )
    assert first is p and second is m
    assert third.strides == m.strides and gradient.strides == p.strides
    ((given, copy),) = copies  # the gradient is not written back
    assert given is v and copy is third


def test_an_odd_address(triton, rng):
    """Two parameters, one of them 4 bytes behind an aligned address."""
    host = lists(rng, [(1024,), (1025,)])
    device = to_device(host)
    for each in device:
        each[1] = each[1][1:]
    host = [[a, b[1:]] for a, b in host]
    triton.adam_step(*device, 3, 0.1)
    check_adam(device, host, 3, 0.1)


def test_float64_and_host_arrays_are_refused(triton, launched):
    xp = gpu.xp()
    double, single = [xp.zeros(2, np.float64)], [xp.zeros(2, np.float32)]
    message = "_step: the arrays are float64, which the backend 'triton' does not serve"
    with pytest.raises(TypeError, match="^adam" + message):
        triton.adam_step(double, double, double, double, 1, 0.1)
    with pytest.raises(TypeError, match="^sgd" + message):
        triton.sgd_step(double, double, None, 0.1)
    message = r"^sgd_step: grads\[0\] is a ndarray; expected a (cupy|tilegrad\.kernels\.simulate\.arrays)\.ndarray$"
    with pytest.raises(TypeError, match=message):
        triton.sgd_step(single, [np.zeros(2, np.float32)], None, 0.1)
    assert launched == []
