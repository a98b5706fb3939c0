"""Batch and group normalisation, their gradients and running statistics, against torch in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as TF

from tests import oracle
from tests.compare import assert_close, assert_same
from tests.layouts import channels_last, contiguous, inside_frame, transposed, untouched
from tilegrad.kernels.checks import accumulator
from tilegrad.kernels.cpu import threads

SHAPES = [
    ((2, 1, 1), None),  # one channel of two numbers
    ((7, 5), None),  # a matrix
    ((3, 6, 4, 5), None),
    ((3, 6, 4, 5), 1),  # as layer normalisation without its affine part
    ((3, 6, 4, 5), 2),
    ((3, 6, 4, 5), 6),  # instance normalisation
    ((4, 6), 3),  # of a matrix
    ((2, 33, 17), None),  # one past a warp
    ((130, 3, 2, 2), None),  # many images: joined from many parts
    ((2, 3, 70, 40), None),  # a row of several tiles
    ((2, 16, 70, 40), 4),
    ((5, 3, 2, 1, 2), None),
]
ORDERS = [contiguous, channels_last]


def torch_of(groups, activation=None, eps=1e-5):
    def function(x, w=None, b=None):
        if groups is None:
            y = TF.batch_norm(x, None, None, w, b, True, 0.1, eps)
        else:
            y = TF.group_norm(x, groups, w, b, eps)
        return torch.relu(y) if activation else y

    return function


def moments(x, groups):
    """(mean, var) in float64."""
    n, c = x.shape[:2]
    x = x.astype(np.float64)
    if groups is None:
        x = np.moveaxis(x, 1, 0).reshape(c, -1)
    else:
        x = x.reshape(n, groups, -1)
    return x.mean(-1), x.var(-1)


def gradients(function, *arrays):
    """The baseline of float16 is float32 rounded once: torch adds up in float16."""
    if arrays[0].dtype != np.float16:
        return oracle.gradients(function, *arrays)
    wide = oracle.gradients(function, *[a.astype(np.float32) for a in arrays])
    return [(want, baseline.astype(np.float16)) for want, baseline in wide]


def check(backend, x, dy, groups, *affine, activation=None):
    """Moments, value and gradients, and that nothing given was written to."""
    with untouched(x):
        mean, var = backend.batch_moments(x, groups)
    for got, want in zip((mean, var), moments(x, groups), strict=True):
        assert_close(got, want, want.astype(accumulator(x.dtype)), scale=1.0)
    weight, bias = (*affine, None, None)[:2]
    with untouched(x, mean, var, *affine):
        y = backend.batch_norm(x, mean, var, weight, bias, groups=groups, activation=activation)
    want, baseline = oracle.value(torch_of(groups, activation), x, *affine)
    assert_close(y, want, baseline, scale=1.0)
    with untouched(dy, x, mean, var, *affine):
        found = backend.batch_norm_grad(
            dy, x, mean, var, weight, bias, 1e-5, groups, activation, False, weight is not None, bias is not None
        )
    expected = gradients(torch_of(groups, activation), dy, x, *affine)
    assert len(found) == len(expected)
    terms = max(1, x.size // x.shape[1])
    for i, (got, (want, baseline)) in enumerate(zip(found, expected, strict=True)):
        assert_close(got, want, baseline, scale=1.0 if i == 0 else terms**0.5)  # a sum of so many terms
    return y, found[0]


def draw(rng, shape, dtype):
    x, dy = rng.standard_normal((2, *shape))
    affine = rng.standard_normal((2, shape[1])) + 0.5
    return (2 * x + 1).astype(dtype), dy.astype(dtype), [a.astype(dtype) for a in affine]


@pytest.mark.parametrize("shape, groups", SHAPES, ids=str)
def test_values_and_gradients(backend, shape, groups, dtype, rng):
    x, dy, affine = draw(rng, shape, dtype)
    check(backend, x, dy, groups, *affine)


@pytest.mark.parametrize("shape, groups", [((7, 5), None), ((3, 6, 4, 5), None), ((3, 6, 4, 5), 2)], ids=str)
@pytest.mark.parametrize("order", ORDERS)
def test_relu_in_the_epilogue(backend, order, shape, groups, dtype, rng):
    x, dy, affine = draw(rng, shape, dtype)
    y, _ = check(backend, order(x), order(dy), groups, *affine, activation="relu")
    assert (y >= 0).all() and (y == 0).any()


@pytest.mark.parametrize("groups", [None, 3])
def test_layouts(backend, layout, groups, rng):
    x, dy, affine = draw(rng, (4, 6, 3, 5), np.float32)
    y, dx = check(backend, layout(x), layout(dy), groups, *map(layout, affine))
    for result in (y, dx):
        last = layout in (channels_last, transposed)  # whose channels are nearer to each other than the pixels
        assert (np.moveaxis(result, 1, -1) if last else result).flags.c_contiguous
    check(backend, layout(x), dy, groups)


PARTS = [
    (2, 3, 30, 40),  # rows of whole blocks, and a part of one
    (3, 40, 9, 8),
    (300, 20),
    (2, 17, 9, 9),  # blocks and a vector
    (3, 33, 25, 31),  # columns that fill no vector; several parts
    (2, 64, 20, 20),  # a pixel is a block
    (5, 1030, 4, 5),  # several panels of rows
]


@pytest.mark.parametrize("shape", PARTS, ids=str)
@pytest.mark.parametrize("order", ORDERS)
def test_sizes_of_the_cpus_parts(order, shape, rng):
    """Several parts of pixels, a last one that is short, and all kinds of blocks that rows are cut into."""
    from tilegrad import kernels

    backend = kernels.load("cpu")
    x, dy, affine = draw(rng, shape, np.float32)
    for groups in (None, 1):
        check(backend, order(x), order(dy), groups, *affine)
        check(backend, order(x), order(dy), groups, *affine, activation="relu")


def test_arrays_of_several_memory_orders(backend, dtype, rng):
    x, dy, affine = draw(rng, (2, 3, 4, 5), dtype)
    for first, second in ((inside_frame(x)[1], channels_last(dy)), (channels_last(x), transposed(dy))):
        check(backend, first, second, None, *affine)
        check(backend, first, second, 3, *affine)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("activation", [None, "relu"])
def test_frozen_moments(backend, order, activation, rng):
    """Of evaluation: dx has no part that comes from them."""
    x, dy, (w, b) = draw(rng, (3, 5, 4, 2), np.float32)
    mean, var = rng.standard_normal(5).astype(np.float32), rng.random(5).astype(np.float32) + np.float32(0.1)

    def function(x, w, b):
        y = TF.batch_norm(x, *(torch.from_numpy(a).to(x.dtype) for a in (mean, var)), w, b)
        return torch.relu(y) if activation else y

    y = backend.batch_norm(order(x), mean, var, w, b, activation=activation)
    assert_close(y, *oracle.value(function, x, w, b), scale=1.0)
    options = 1e-5, None, activation, True
    found = backend.batch_norm_grad(order(dy), order(x), mean, var, w, b, *options, True, True)
    for got, (want, baseline) in zip(found, oracle.gradients(function, dy, x, w, b), strict=True):
        assert_close(got, want, baseline, scale=5.0)
    (alone,) = backend.batch_norm_grad(order(dy), order(x), mean, var, w, b, *options)
    assert_same(alone, found[0])


def test_moments_in_the_dtype_of_x(backend, dtype, rng):
    """Running ones of a module in 16 bits."""
    x, dy, (w, b) = draw(rng, (3, 4, 5), dtype)
    mean, var = rng.standard_normal(4).astype(dtype), (rng.random(4) + 0.5).astype(dtype)
    wide = [a.astype(accumulator(dtype)) for a in (mean, var)]
    assert_same(backend.batch_norm(x, mean, var, w, b), backend.batch_norm(x, *wide, w, b))
    options = w, b, 1e-5, None, None, True, True, True
    for got, want in zip(
        backend.batch_norm_grad(dy, x, mean, var, *options),
        backend.batch_norm_grad(dy, x, *wide, *options),
        strict=True,
    ):
        assert_same(got, want)


@pytest.mark.parametrize("shape", [(4, 3, 90, 30), (3, 4, 5, 7), (200, 3)], ids=str)
@pytest.mark.parametrize("order", ORDERS)
def test_a_mean_of_ten_thousand_deviations_costs_no_digits(backend, order, shape, rng):
    """Moments in one pass: sums of x and of its square would leave nothing of the variance."""
    x = (rng.standard_normal(shape) + 1e4).astype(np.float32)
    for groups in (None, 1):
        mean, var = backend.batch_moments(order(x), groups)
        for got, want in zip((mean, var), moments(x, groups), strict=True):
            assert_close(got, want, want.astype(np.float32))


@pytest.mark.parametrize("order", ORDERS)
def test_what_comes_first_is_far_from_the_rest(backend, order, rng):
    """Black borders: deviations are taken from the mean of what comes first, and must survive it."""
    x = (rng.standard_normal((2, 3, 12, 10)) + 1e3).astype(np.float32)
    x[0, :, :2] = 0
    mean, var = backend.batch_moments(order(x))
    for got, want in zip((mean, var), moments(x, None), strict=True):
        assert_close(got, want, want.astype(np.float32))


@pytest.mark.parametrize("value", [0.1, 1e4 / 3, -7.0])
@pytest.mark.parametrize("order", ORDERS)
def test_a_constant_channel_has_no_variance(backend, order, value):
    x = order(np.full((3, 5, 7, 2), value, np.float32))
    for groups in (None, 5):
        mean, var = backend.batch_moments(x, groups)
        assert_close(mean, np.full(mean.shape, np.float64(np.float32(value))), np.full(mean.shape, value, np.float32))
        assert np.abs(var).max() <= 1e-12 * value**2 and (var >= 0).all()
        y = backend.batch_norm(x, mean, var, groups=groups)
        assert np.abs(y).max() <= 1e-3 * abs(value)


@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4), (2, 3, 0, 2), (2, 0, 3)], ids=str)
def test_nothing_to_normalise(backend, shape):
    x, w = np.zeros(shape, np.float32), np.ones(shape[1], np.float32)
    mean, var = backend.batch_moments(x)
    assert mean.shape == var.shape == (shape[1],) and np.isnan(mean).all() and np.isnan(var).all()
    ones = np.ones(shape[1], np.float32)
    assert_same(backend.batch_norm(x, ones, ones, w, w), x)
    dx, dw, db = backend.batch_norm_grad(x, x, ones, ones, w, w, to_weight=True, to_bias=True)
    for got, want in ((dx, x), (dw, 0 * w), (db, 0 * w)):
        assert_same(got, want)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("order", ORDERS)
def test_what_is_not_finite_stays_in_its_channel(backend, order, value):
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
    x[1, 1, 2, 2] = value
    for groups in (None, 3):
        spoilt = np.zeros(x.shape, bool)
        spoilt[slice(None) if groups is None else 1, 1] = True
        mean, var = backend.batch_moments(order(x), groups)
        y = backend.batch_norm(order(x), mean, var, groups=groups)
        assert_same(np.isnan(y), spoilt)
        y = backend.batch_norm(order(x), mean, var, groups=groups, activation="relu")
        assert_same(np.isnan(y), spoilt)
        found = backend.batch_norm_grad(
            np.ones_like(x), order(x), mean, var, groups=groups, activation="relu", to_weight=True
        )
        assert_same(np.isnan(found[0]), spoilt)
        assert_same(np.isnan(found[1]), np.array([False, True, False]))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("groups", [None, 3])
def test_what_is_alike_has_no_gradient(backend, order, groups, rng):
    """Not even of the size of a rounding, which an optimizer such as Adam would take for one."""
    one, dy = rng.standard_normal((2, 1, 3, 1, 1)).astype(np.float32)
    x, dy, w = np.tile(one, (2, 1, 2, 4)), np.tile(dy, (2, 1, 2, 4)), rng.standard_normal(3).astype(np.float32)
    mean, var = backend.batch_moments(order(x), groups)
    (dx,) = backend.batch_norm_grad(order(dy), order(x), mean, var, w, groups=groups)
    assert_same(dx, np.zeros_like(x))


def test_running_statistics(backend, dtype, rng):
    running = [rng.standard_normal(5).astype(dtype), rng.random(5).astype(dtype)]
    mean, var = (rng.random(5).astype(accumulator(dtype)) for _ in range(2))
    before = [a.astype(np.float64) for a in running]
    want = [0.7 * before[0] + 0.3 * mean.astype(np.float64), 0.7 * before[1] + 0.3 * var.astype(np.float64) * 6 / 5]
    backend.batch_moments_step(running, mean, var, 6, 0.3)
    for got, each in zip(running, want, strict=True):
        assert_close(got, each, each.astype(dtype))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("groups", [None, 2])
def test_any_number_of_threads_has_the_same_bits(order, groups, rng):
    from tilegrad import kernels

    backend, before = kernels.load("cpu"), threads.num_threads()
    x, dy, (w, b) = draw(rng, (9, 8, 30, 31), np.float32)
    results = []
    try:
        for n in (1, 2, 3, 7):
            threads.set_num_threads(n)
            mean, var = backend.batch_moments(order(x), groups)
            y = backend.batch_norm(order(x), mean, var, w, b, groups=groups)
            grads = backend.batch_norm_grad(
                order(dy), order(x), mean, var, w, b, 1e-5, groups, "relu", False, True, True
            )
            results.append((mean, var, y, *grads))
    finally:
        threads.set_num_threads(before)
    for other in results[1:]:
        for got, want in zip(other, results[0], strict=True):
            assert_same(got, want)


# --- with a residual


def check_residual(backend, x, residual, dy, groups, *affine, activation="relu"):
    """Value and gradients, the residual's too, of the norm, the sum and the activation."""

    def function(x, residual, *affine):
        y = torch_of(groups)(x, *affine) + residual
        return torch.relu(y) if activation else y

    mean, var = backend.batch_moments(x, groups)
    weight, bias = (*affine, None, None)[:2]
    given = mean, var, weight, bias, 1e-5, groups, activation
    with untouched(x, residual, mean, var, *affine):
        y = backend.batch_norm(x, *given, residual)
    want, baseline = oracle.value(function, x, residual, *affine)
    assert_close(y, want, baseline, scale=1.0)
    with untouched(dy, x, y, mean, var, *affine):
        asked = False, weight is not None, bias is not None
        found = backend.batch_norm_grad(dy, x, *given, *asked, y if activation else None)
    expected = gradients(function, dy, x, residual, *affine)
    dx, *others = found
    if activation:
        *others, dz = others
        assert_same(dz, np.where(y > 0, dy, np.zeros((), x.dtype)))
        assert dz.strides == dx.strides == y.strides
        found = dx, dz, *others
    else:
        del expected[1]  # which is dy
    terms = max(1, x.size // x.shape[1])
    for i, (got, (want, baseline)) in enumerate(zip(found, expected, strict=True)):
        assert_close(got, want, baseline, scale=1.0 if i < 2 and activation or i == 0 else terms**0.5)
    return y


@pytest.mark.parametrize("shape, groups", SHAPES, ids=str)
def test_residual(backend, shape, groups, dtype, rng):
    x, dy, affine = draw(rng, shape, dtype)
    residual, _, _ = draw(rng, shape, dtype)
    y = check_residual(backend, x, residual, dy, groups, *affine)
    assert (y >= 0).all()
    check_residual(backend, x, residual, dy, groups, *affine, activation=None)


@pytest.mark.parametrize("groups", [None, 3])
def test_residual_layouts(backend, layout, groups, rng):
    """And without weight and bias."""
    x, dy, affine = draw(rng, (4, 6, 3, 5), np.float32)
    residual, _, _ = draw(rng, (4, 6, 3, 5), np.float32)
    check_residual(backend, layout(x), layout(residual), layout(dy), groups, *map(layout, affine))
    check_residual(backend, layout(x), residual, dy, groups)
    check_residual(backend, x, layout(residual), layout(dy), groups)


def test_residual_of_stride_0(backend, rng):
    x, dy, affine = draw(rng, (3, 4, 2, 5), np.float32)
    one = np.broadcast_to(np.float32(0.5), x.shape)
    for groups in (None, 2):
        check_residual(backend, x, one, dy, groups, *affine)
        check_residual(backend, x, np.broadcast_to(x[:1], x.shape), one, groups, *affine)
        check_residual(backend, x, x, dy, groups, *affine)


@pytest.mark.parametrize("shape", PARTS, ids=str)
@pytest.mark.parametrize("order", ORDERS)
def test_residual_in_sizes_of_the_cpus_parts(order, shape, rng):
    from tilegrad import kernels

    backend = kernels.load("cpu")
    x, dy, affine = draw(rng, shape, np.float32)
    residual, _, _ = draw(rng, shape, np.float32)
    for groups in (None, 1):
        for activation in (None, "relu"):
            arrays = order(x), order(residual), order(dy)
            check_residual(backend, *arrays, groups, *affine, activation=activation)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape, groups", [((3, 6, 4, 5), None), ((2, 6, 70, 40), 3), ((7, 5), None)], ids=str)
def test_the_residual_form_has_the_bits_of_norm_sum_and_relu(backend, order, shape, groups, rng):
    """In float32; in 16 bits it rounds once where they round three times."""
    x, dy, affine = draw(rng, shape, np.float32)
    residual, _, _ = draw(rng, shape, np.float32)
    x, dy, residual = order(x), order(dy), order(residual)
    mean, var = backend.batch_moments(x, groups)
    y = backend.batch_norm(x, mean, var, *affine, 1e-5, groups, "relu", residual)
    assert_same(y, np.maximum(backend.batch_norm(x, mean, var, *affine, 1e-5, groups) + residual, 0))
    *found, dz = backend.batch_norm_grad(dy, x, mean, var, *affine, 1e-5, groups, "relu", False, True, True, y)
    want = backend.batch_norm_grad(dz, x, mean, var, *affine, 1e-5, groups, None, False, True, True)
    for got, each in zip(found, want, strict=True):
        assert_same(got, each)


@pytest.mark.parametrize("order", ORDERS)
def test_residual_with_frozen_moments(backend, order, rng):
    """Nothing need be summed there: dx and dz are the same."""
    x, dy, (w, b) = draw(rng, (3, 5, 4, 2), np.float32)
    residual, _, _ = draw(rng, (3, 5, 4, 2), np.float32)
    mean, var = rng.standard_normal(5).astype(np.float32), rng.random(5).astype(np.float32) + np.float32(0.1)

    def function(x, residual, w, b):
        y = TF.batch_norm(x, *(torch.from_numpy(a).to(x.dtype) for a in (mean, var)), w, b)
        return torch.relu(y + residual)

    given = mean, var, w, b, 1e-5, None, "relu"
    y = backend.batch_norm(order(x), *given, order(residual))
    assert_close(y, *oracle.value(function, x, residual, w, b), scale=1.0)
    dx, dw, db, dz = backend.batch_norm_grad(order(dy), order(x), *given, True, True, True, y)
    expected = oracle.gradients(function, dy, x, residual, w, b)
    for got, (want, baseline) in zip((dx, dz, dw, db), expected, strict=True):
        assert_close(got, want, baseline, scale=5.0)
    for got, want in zip(backend.batch_norm_grad(order(dy), order(x), *given, True, y=y), (dx, dz), strict=True):
        assert_same(got, want)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("order", ORDERS)
def test_a_residual_that_is_not_finite(backend, order, value):
    """It spoils its own place of y; where y is NaN the gradient passes, as relu lets it."""
    rng = np.random.default_rng(0)
    x, residual = rng.standard_normal((2, 2, 3, 4, 5)).astype(np.float32)
    residual[1, 1, 2, 2], residual[0, 2, 1, 1] = value, -np.inf
    mean, var = backend.batch_moments(order(x))
    y = backend.batch_norm(order(x), mean, var, activation="relu", residual=order(residual))
    spoilt = np.zeros(x.shape, bool)
    spoilt[1, 1, 2, 2] = True
    assert_same(~np.isfinite(y), spoilt)
    assert y[0, 2, 1, 1] == 0
    dz = backend.batch_norm_grad(np.ones_like(x), order(x), mean, var, activation="relu", y=y)[1]
    assert_same(dz, (y != 0).astype(np.float32))


@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4), (2, 3, 0, 2), (2, 0, 3)], ids=str)
def test_a_residual_without_elements(backend, shape):
    x, one = np.zeros(shape, np.float32), np.ones(shape[1], np.float32)
    given = one, one, one, one, 1e-5, None, "relu"
    y = backend.batch_norm(x, *given, x)
    assert_same(y, x)
    for got, want in zip(
        backend.batch_norm_grad(x, x, *given, False, True, True, y), (x, 0 * one, 0 * one, x), strict=True
    ):
        assert_same(got, want)


# --- errors


def test_wrong_arguments(backend):
    x, one = np.ones((5, 6, 2), np.float32), np.ones(6, np.float32)
    with pytest.raises(ValueError, match=r"^batch_moments: x is \(5,\); expected \(N, C\) or \(N, C, ...\)$"):
        backend.batch_moments(x[:, 0, 0])
    for groups in (0, 4):
        message = rf"^batch_moments: groups is {groups} but x is \(5, 6, 2\); expected a divisor of 6$"
        with pytest.raises(ValueError, match=message):
            backend.batch_moments(x, groups)
    with pytest.raises(TypeError, match=r"^batch_moments: groups is 1.5; expected an int or None$"):
        backend.batch_moments(x, 1.5)
    with pytest.raises(TypeError, match="^batch_moments: x is int64; expected float16, bfloat16, float32 or float64$"):
        backend.batch_moments(np.ones((3, 2), np.int64))

    for name, call in (
        ("batch_norm", backend.batch_norm),
        ("batch_norm_grad", lambda *args, **options: backend.batch_norm_grad(x, *args, **options)),
    ):
        with pytest.raises(ValueError, match=rf"^{name}: x is \(5, 6, 2\) but mean is \(5,\); expected \(6,\)$"):
            call(x, one[:5], one)
        with pytest.raises(ValueError, match=rf"^{name}: x is \(5, 6, 2\) but var is \(6,\); expected \(5, 2\)$"):
            call(x, np.ones((5, 2), np.float32), one, groups=2)
        with pytest.raises(ValueError, match=rf"^{name}: x is \(5, 6, 2\) but weight is \(5,\); expected \(6,\)$"):
            call(x, one, one, one[:5])
        with pytest.raises(TypeError, match=f"^{name}: mean and var are float64 but x is float32; expected float32$"):
            call(x, one.astype(np.float64), one.astype(np.float64))
        with pytest.raises(TypeError, match=f"^{name}: eps is None; expected a real number$"):
            call(x, one, one, eps=None)
        with pytest.raises(ValueError, match=f"^{name}: activation is 'gelu'; expected one of None, 'relu'$"):
            call(x, one, one, activation="gelu")
    with pytest.raises(ValueError, match=r"^batch_norm_grad: x is \(5, 6, 2\) but dy is \(5, 6\); expected"):
        backend.batch_norm_grad(x[..., 0], x, one, one)

    with pytest.raises(
        ValueError, match=r"^batch_norm: x is \(5, 6, 2\) but residual is \(5, 6, 1\); expected \(5, 6, 2\)$"
    ):
        backend.batch_norm(x, one, one, residual=x[..., :1])
    with pytest.raises(TypeError, match="^batch_norm: x is float32, residual is float16; expected one dtype for all$"):
        backend.batch_norm(x, one, one, residual=x.astype(np.float16))
    with pytest.raises(
        ValueError, match=r"^batch_norm_grad: x is \(5, 6, 2\) but y is \(6, 2\); expected \(5, 6, 2\)$"
    ):
        backend.batch_norm_grad(x, x, one, one, activation="relu", y=x[0])
    with pytest.raises(ValueError, match="^batch_norm_grad: y is given but activation is None; expected 'relu'$"):
        backend.batch_norm_grad(x, x, one, one, y=x)

    with pytest.raises(ValueError, match="^batch_moments_step: count is 1; expected more than 1$"):
        backend.batch_moments_step([one, one.copy()], one, one, 1, 0.1)
    with pytest.raises(ValueError, match=r"^batch_moments_step: an array is \(5,\); expected \(C,\) of one C for all$"):
        backend.batch_moments_step([one, one.copy()], one[:5], one, 4, 0.1)
    with pytest.raises(TypeError, match="^batch_moments_step: momentum is None; expected a real number$"):
        backend.batch_moments_step([one, one.copy()], one, one, 4, None)
