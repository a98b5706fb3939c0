"""Losses of numbers against numbers, and their gradients, against torch in float64."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch.nn.functional as F

from tests import oracle
from tests.compare import assert_close, assert_same
from tests.layouts import untouched
from tilegrad import kernels
from tilegrad.kernels.cpu import threads
from tilegrad.kernels.device import gpu
from tilegrad.kernels.losses.reference import KINDS, REDUCTIONS

CASES = [  # shape, reduction
    ((), "mean"),  # 0-d
    ((5, 10), "mean"),  # ragged
    ((5, 10), "sum"),
    ((5, 10), "none"),
    ((0, 10), "sum"),  # empty
    ((33, 67), "mean"),  # more than a block, and more than one program, not full
    ((33, 67), "none"),
]
BETA = {"smooth_l1_loss": "beta", "huber_loss": "delta"}
BCE, LOGITS = KINDS[4:]


def draw(rng, kind, shape, dtype):
    """x and t. Some differences are 0."""
    if kind == BCE:
        return [np.asarray(0.02 + 0.96 * rng.random(shape)).astype(dtype) for _ in range(2)]
    x = np.asarray(2 * rng.standard_normal(shape)).astype(dtype)
    if kind == LOGITS:
        return [x, np.asarray(rng.random(shape)).astype(dtype)]
    t = np.asarray(2 * rng.standard_normal(shape)).astype(dtype)
    equal = rng.random(shape) < 0.1
    t[equal] = x[equal]
    return [x, t]


def theirs(kind, reduction, beta=1.0, weight=None, pos_weight=None):
    """torch's function of (x, t)."""

    def function(x, t):
        w, p = (None if a is None else oracle.to_tensor(a).to(x.dtype) for a in (weight, pos_weight))
        options = {BETA[kind]: beta} if kind in BETA else {} if p is None else {"pos_weight": p}
        y = getattr(F, kind)(x, t, reduction="none", **options)
        y = y if w is None else y * w
        return y if reduction == "none" else y.sum() if reduction == "sum" else y.mean()

    return function


OPTIONS = [(False, False), (True, False), (True, True), (False, True)]  # weight, pos_weight


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shape", "reduction"), CASES, ids=str)
def test_values_and_gradients(backend, kind, shape, reduction, dtype, rng):
    x, t = draw(rng, kind, shape, dtype)
    for weighted, positive in OPTIONS[: 4 if kind == LOGITS and x.ndim == 2 else 2]:
        w = np.asarray(rng.random(shape) + 0.5).astype(dtype) if weighted else None
        p = np.asarray(rng.random(shape) + 0.5).astype(dtype) if positive else None
        given = [a for a in (w, p) if a is not None]
        options = kind, w, p, 0.75, reduction
        dy = np.asarray(rng.standard_normal(shape if reduction == "none" else ()), dtype)
        with untouched(x, t, dy, *given):
            y = backend.elementwise_loss(x, t, *options)
            dx, dt = backend.elementwise_loss_grad(dy, x, t, *options, True, True)
        function = theirs(kind, reduction, 0.75, w, p)
        assert y.dtype == dtype and y.shape == dy.shape and dx.shape == dt.shape == shape
        assert_close(y, *oracle.value(function, x, t), scale=1.0)
        wants = oracle.gradients(function, dy, x, t)
        largest = float(np.abs(dy.astype(np.float64)).max()) if dy.size else 1.0
        assert_close(dx, *wants[0], scale=largest)
        assert_close(dt, *wants[1], scale=largest)
        for asked in ((True, False), (False, True)):
            (one,) = backend.elementwise_loss_grad(dy, x, t, *options, *asked)
            assert_same(one, dx if asked[0] else dt)


@pytest.mark.parametrize("kind", KINDS)
def test_layouts_do_not_matter_and_memory_order_is_kept(backend, kind, layout, rng):
    x, t = draw(rng, kind, (2, 3, 4, 5), np.float32)
    w = rng.random((2, 3, 4, 5)).astype(np.float32)
    a, b, c = layout(x), t, layout(w)
    for reduction in ("mean", "none"):
        options = kind, None, None, 1.0, reduction
        dy = np.ones(x.shape if reduction == "none" else (), np.float32)
        with untouched(a, b, c):
            y = backend.elementwise_loss(a, b, kind, c, None, 1.0, reduction)
            (dx,) = backend.elementwise_loss_grad(dy, a, b, *options)
        assert_close(y, *oracle.value(theirs(kind, reduction, 1.0, w), x, t), scale=1.0)
        assert_close(dx, *oracle.gradients(theirs(kind, reduction), dy, x, t)[0], scale=1.0)
        assert _memory_order(dx) == _memory_order(a)


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_and_weights_of_stride_0(backend, kind, rng):
    """What sum() hands back, and a class's weight seen by every row."""
    x, t = draw(rng, kind, (5, 10), np.float32)
    w, dy = (np.broadcast_to(np.float32(rng.random(10)), x.shape) for _ in range(2))
    (dx,) = backend.elementwise_loss_grad(dy, x, t, kind, w, None, 1.0, "none")
    assert_close(dx, *oracle.gradients(theirs(kind, "none", 1.0, w), dy, x, t)[0], scale=1.0)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != BCE])
def test_nan_arrives(backend, kind, dtype):
    x, t, one = np.array([0.5, np.nan, 0.5], dtype), np.array([np.nan, 0.5, 0.5], dtype), np.ones(3, dtype)
    y = backend.elementwise_loss(x, t, kind, reduction="none")
    dx, dt = backend.elementwise_loss_grad(one, x, t, kind, reduction="none", to_t=True)
    for each in (y, dx):
        assert_same(np.isnan(each), np.array([True, True, False]))
    assert_same(np.isnan(dt)[1:], np.array([True, False]))  # that of logits does not depend on t
    assert np.isnan(backend.elementwise_loss(x, t, kind))


@pytest.mark.parametrize("value", [0, 1e-30, 1e-8, 1e-3, 0.1, 1, 5, 20, 80, 1000, np.inf])
def test_logits_keep_their_digits(backend, value):
    for x, t, p in [(s * value, t, p) for s in (1, -1) for t in (0.0, 0.25, 1.0) for p in (1.0, 3.0)]:
        arrays = [np.float32([v]) for v in (x, t, p)]
        if np.isinf(value) and t * p not in (0.0, 1.0):
            continue
        wide = np.float64(arrays[0])
        e = np.exp(-np.abs(wide))
        above, below = np.maximum(wide, 0) + np.log1p(e), np.maximum(-wide, 0) + np.log1p(e)
        with np.errstate(invalid="ignore"):
            want = arrays[2] * arrays[1] * below + (1 - arrays[1]) * above
        y = backend.elementwise_loss(arrays[0], arrays[1], LOGITS, None, arrays[2], 1.0, "none")
        assert_close(y, want, want.astype(np.float32), elementwise=True)
        sigmoid, rest = np.where(wide > 0, 1, e) / (1 + e), np.where(wide > 0, e, 1) / (1 + e)
        want = (1 - arrays[1]) * sigmoid - arrays[2] * arrays[1] * rest
        one = np.ones(1, np.float32)
        (dx,) = backend.elementwise_loss_grad(one, arrays[0], arrays[1], LOGITS, None, arrays[2], 1.0, "none")
        if t in (0.0, 1.0):  # for t between them the two terms may cancel
            assert_close(dx, want, want.astype(np.float32), elementwise=True)


def test_logarithms_keep_their_digits(backend):
    """Near 0 and near 1, subnormal numbers, and the ends, where they are cut at -100."""
    ends = [0, 1, 2**-149, 2**-130, 2**-126, 1e-20, 1 - 2**-24, 0.5, 0.7071067, 0.7071069, 0.2928932, 0.2928933]
    x = np.float32([*ends, *np.linspace(0, 1, 101), *2.0 ** -np.arange(1, 120)])
    wide = x.astype(np.float64)
    with np.errstate(divide="ignore"):
        logs = np.maximum(np.log(wide), -100), np.maximum(np.log1p(-wide), -100)
    for t, log in zip((1, 0), logs):
        y = backend.elementwise_loss(x, np.full_like(x, t), BCE, reduction="none")
        assert_close(y, -log, -log.astype(np.float32), elementwise=True)
    dx, dt = backend.elementwise_loss_grad(np.ones_like(x), x, np.full_like(x, 1), BCE, reduction="none", to_t=True)
    want = (wide - 1) / np.maximum(wide * (1 - wide), 1e-12)
    assert_close(dx, want, want.astype(np.float32), elementwise=True)
    assert_close(dt, logs[1] - logs[0], (logs[1] - logs[0]).astype(np.float32), scale=1.0)


@pytest.mark.parametrize("wrong", [-0.25, 1.25, np.nan, np.inf])
def test_what_is_no_probability(backend, wrong, dtype):
    x = np.full(3000, 0.5, dtype)
    x[2500] = wrong
    for reduction in REDUCTIONS:
        with pytest.raises(ValueError, match="binary_cross_entropy: input holds .*; expected 0 <= input <= 1"):
            backend.elementwise_loss(x, x, BCE, reduction=reduction)
    x[2500] = 0.5
    assert np.isfinite(backend.elementwise_loss(x, x, BCE))


def test_nothing(backend, dtype):
    x = np.zeros((0, 3), dtype)
    assert np.isnan(backend.elementwise_loss(x, x, "mse_loss"))
    assert backend.elementwise_loss(x, x, "mse_loss", reduction="sum") == 0


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_the_number_of_threads_changes_no_bit(kind, count, rng, monkeypatch):
    """More than one block for each, the last one not full."""
    cpu = kernels.load("cpu")
    x, t = draw(rng, kind, (60_001,), np.float32)
    monkeypatch.setattr(threads, "_count", 1)
    one = np.ones((), np.float32)
    want = cpu.elementwise_loss(x, t, kind), *cpu.elementwise_loss_grad(one, x, t, kind, to_t=True)
    monkeypatch.setattr(threads, "_count", count)
    got = cpu.elementwise_loss(x, t, kind), *cpu.elementwise_loss_grad(one, x, t, kind, to_t=True)
    for a, b in zip(got, want, strict=True):
        assert_same(a, b)


@pytest.mark.parametrize("name", ["triton", "numba"])
def test_several_tiles_of_a_program(name, rng, monkeypatch):
    if not gpu.runs(name):
        pytest.skip("not simulated")
    backend, xp = kernels.load(name), gpu.xp()
    if name == "triton":
        monkeypatch.setattr("tilegrad.kernels.losses.gpu_triton.PROGRAMS", 2)
        monkeypatch.setattr("tilegrad.kernels.losses.gpu_triton.BLOCK", 64)
    x, t = draw(rng, LOGITS, (1000,), np.float32)
    for reduction in ("sum", "mean"):
        y = backend.elementwise_loss(xp.asarray(x), xp.asarray(t), LOGITS, reduction=reduction)
        assert_close(xp.asnumpy(y), *oracle.value(theirs(LOGITS, reduction), x, t), scale=1.0)


X = np.full((2, 3), 0.5, np.float32)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((X, X, "mse"), ValueError, "kind is 'mse'; expected one of 'mse_loss'"),
        ((X, X[0], "mse_loss"), ValueError, r"x is \(2, 3\) but t is \(3,\)"),
        ((X, X, "mse_loss", X[0]), ValueError, r"x is \(2, 3\) but weight is \(3,\)"),
        ((X, X, LOGITS, None, X[0]), ValueError, r"x is \(2, 3\) but pos_weight is \(3,\)"),
        ((X, X, BCE, None, X), ValueError, "binary_cross_entropy has no pos_weight; expected None"),
        ((X, X.astype(np.float16), "mse_loss"), TypeError, "x is float32, t is float16; expected one dtype"),
        ((X, X, "mse_loss", None, None, 1.0, "max"), ValueError, "reduction is 'max'; expected one of 'mean'"),
        ((X, X, "smooth_l1_loss", None, None, -1.0), ValueError, "beta is -1.0; expected >= 0"),
        ((X, X, "huber_loss", None, None, 0.0), ValueError, "beta is 0.0; expected > 0"),
        ((X, X, "huber_loss", None, None, "1"), TypeError, "beta is '1'; expected a real number"),
    ],
)
def test_bad_arguments(backend, arguments, error, message):
    with pytest.raises(error, match=f"^elementwise_loss: {message}"):
        backend.elementwise_loss(*arguments)
    with pytest.raises(error, match=f"^elementwise_loss_grad: {message}"):
        backend.elementwise_loss_grad(np.ones((), arguments[0].dtype), *arguments)


def test_a_gradient_of_another_shape(backend):
    with pytest.raises(ValueError, match=r"elementwise_loss_grad: dy is \(2, 3\); expected \(\)"):
        backend.elementwise_loss_grad(X, X, X, "mse_loss")
    with pytest.raises(ValueError, match=r"elementwise_loss_grad: dy is \(\); expected \(2, 3\)"):
        backend.elementwise_loss_grad(X[0, 0].reshape(()), X, X, "mse_loss", reduction="none")


def test_a_mean_of_16_bits_does_not_overflow():
    """The sum does: 1e4 squares of 100, the mean of which float16 has."""
    x = np.full(10_000, 100, np.float16)
    for name in ("reference", "cpu"):
        assert kernels.load(name).elementwise_loss(x, np.zeros_like(x), "mse_loss") == 10_000
    wide = np.full(10_000, 100, ml_dtypes.bfloat16)
    assert kernels.load("cpu").elementwise_loss(wide, np.zeros_like(wide), "l1_loss") == 100


def _memory_order(x: np.ndarray) -> list[int]:
    """The axes from the outermost in memory to the innermost."""
    return sorted(range(x.ndim), key=lambda axis: -abs(x.strides[axis]))
