"""Softmax and log-softmax and their gradients against torch in float64."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch

from tests import oracle
from tests.compare import assert_close, assert_same
from tests.layouts import channels_last, inside_frame, untouched

SHAPES = [
    ((1, 1), -1),  # degenerate: softmax is 1, log-softmax is 0
    ((5, 10), -1),  # ragged
    ((5, 10), 0),  # a reduction across rows
    ((0, 10), -1),  # no row
    ((10, 0), -1),  # empty rows
    ((7,), 0),  # one row
    ((33, 257), 1),  # one past a tile
    ((3, 257), 1),  # and few enough for a simulator
    ((257, 3), 0),
    ((3, 4096), -1),  # wide
    ((4096, 3), 0),  # long
    ((2, 3, 4, 5), 1),  # over the channels of images
    ((2, 3, 4, 5), -2),
]
PAIRS = {"softmax": torch.softmax, "log_softmax": torch.log_softmax}


@pytest.fixture(params=PAIRS)
def name(request) -> str:
    return request.param


def gradient(name, dy, x, y, axis) -> oracle.Pair:
    """(want, baseline) of the gradient. A gradient from a result of 8 bits is judged by that result, not by x."""
    if x.dtype != ml_dtypes.bfloat16:
        return oracle.gradients(lambda x: PAIRS[name](x, axis), dy, x)[0]
    want, single = (_gradient_from_result(name, dy.astype(kind), y.astype(kind), axis) for kind in (float, np.float32))
    return want, single.astype(x.dtype)


def _gradient_from_result(name, dy, y, axis):
    if name == "softmax":
        return y * (dy - (dy * y).sum(axis, keepdims=True))
    return dy - np.exp(y) * dy.sum(axis, keepdims=True)


def check(backend, name, x, dy, axis, scale=0.0):
    """Value and gradient, and that nothing given was written to."""
    with untouched(x, dy):
        y = getattr(backend, name)(x, axis)
    assert_close(y, *oracle.value(lambda x: PAIRS[name](x, axis), x), elementwise=name == "softmax")
    with untouched(dy, y):
        dx = getattr(backend, f"{name}_grad")(dy, y, axis)
    assert_close(dx, *gradient(name, dy, x, y, axis), scale=scale)
    return y, dx


@pytest.mark.parametrize("shape, axis", SHAPES, ids=str)
def test_values_and_gradients(backend, name, shape, axis, dtype, rng):
    x, dy = (3 * rng.standard_normal((2, *shape))).astype(dtype)
    check(backend, name, x, dy, axis)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_layouts(backend, name, layout, axis, dtype, rng):
    x, dy = (layout(a) for a in rng.standard_normal((2, 5, 6, 10)).astype(dtype))
    y, dx = check(backend, name, x, dy, axis)
    order = np.argsort(np.abs(x.strides))
    assert_same(np.argsort(np.abs(y.strides)), order)  # the memory order is kept
    assert_same(np.argsort(np.abs(dx.strides)), order)


def test_the_last_axis_is_the_default(backend, name, rng):
    x, dy = rng.standard_normal((2, 5, 10)).astype(np.float32)
    y = getattr(backend, name)(x)
    assert_same(y, getattr(backend, name)(x, 1))
    grad = getattr(backend, f"{name}_grad")
    assert_same(grad(dy, y), grad(dy, y, 1))


@pytest.mark.parametrize("axis", [0, 1])
def test_an_incoming_gradient_of_stride_0(backend, name, axis, dtype, rng):
    """One row for all, one column for all, and one number for all, as sum() sends it."""
    x = rng.standard_normal((5, 10)).astype(dtype)
    for shape in ((1, 10), (5, 1), (1, 1)):
        dy = np.broadcast_to(rng.standard_normal(shape).astype(dtype), x.shape)
        cancels = name == "softmax" and dy.strides[axis] == 0  # the probabilities of a row sum to 1 whatever x is
        check(backend, name, x, dy, axis, scale=float(np.abs(dy).max()) if cancels else 0.0)


@pytest.mark.parametrize("shape, axis", [((2, 40000), 1), ((3000, 33), 0)], ids=str)
def test_more_than_a_gpu_keeps_in_registers(backend, name, shape, axis, rng):
    x, dy = (3 * rng.standard_normal((2, *shape))).astype(np.float32)
    check(backend, name, x, dy, axis)


def test_a_slice_of_images_and_a_gradient_in_another_memory_order(backend, name, dtype, rng):
    """Strides that no two axes share."""
    x, dy = rng.standard_normal((2, 2, 3, 4, 5)).astype(dtype)
    check(backend, name, inside_frame(x)[1], channels_last(dy), 1)
    check(backend, name, channels_last(x), inside_frame(dy)[1], -1)


@pytest.mark.parametrize(
    "row",
    [
        [1e4, 1e4 - 1, -1e4],  # no exponential of it is finite
        [-1e4, -1e4 - 1, -1e4 - 2],  # each of them is 0
        [65504, 65504, 0],  # the largest float16
        [-np.inf, 0, 1],  # a masked logit
        [-np.inf, -np.inf, 3],
        [-np.inf, -np.inf, -np.inf],  # nothing is left: NaN, as in torch
        [np.inf, 0, 1],
        [np.inf, np.inf, -np.inf],
        [np.nan, 0, 1],
        [np.nan, np.inf, -np.inf],
    ],
    ids=str,
)
def test_extreme_logits(backend, name, row, dtype):
    x = np.array([row, [1, 2, 3]], dtype)
    want, _ = oracle.value(lambda x: PAIRS[name](x, 1), x)
    for axis, given in ((1, x), (0, np.ascontiguousarray(x.T))):
        y = getattr(backend, name)(given, axis)
        assert_close(y if axis == 1 else y.T, want, want.astype(dtype))


@pytest.mark.parametrize("shape", [(1, 40003), (1, 403)], ids=str)
def test_a_row_that_begins_with_masked_logits(backend, name, shape):
    """Nothing finite is seen for whole blocks, then all there is."""
    x = np.full(shape, -np.inf, np.float32)
    x[0, -3:] = 1, 2, 3
    want, baseline = oracle.value(lambda x: PAIRS[name](x, 1), x)
    assert_close(getattr(backend, name)(x), want, baseline)


def test_log_softmax_keeps_its_digits_beside_a_large_shift(backend):
    """max + log(sum) formed first would round log(sum) to the spacing of 1e4: 1e-3 in float32."""
    x = np.array([[1e4, 1e4 + 0.5, 1e4 - 3]], np.float32)
    want, _ = oracle.value(lambda x: torch.log_softmax(x, 1), x)
    assert_close(backend.log_softmax(x), want, want.astype(np.float32), elementwise=True)


@pytest.mark.parametrize("shape", [(33, 257), (3, 257)], ids=str)
def test_float16_is_float32_rounded_once(backend, name, shape, rng):
    x, dy = rng.standard_normal((2, *shape)).astype(np.float16)
    function, grad = getattr(backend, name), getattr(backend, f"{name}_grad")
    y = function(x)
    assert_same(y, function(x.astype(np.float32)).astype(np.float16))
    dx = grad(dy.astype(np.float32), y.astype(np.float32))
    assert_same(grad(dy, y), dx.astype(np.float16))


def test_nan_stays_in_its_row(backend, name):
    x = np.ones((3, 4), np.float32)
    x[1, 2] = np.nan
    expected = np.zeros((3, 4), bool)
    expected[1] = True
    y = getattr(backend, name)(x)
    assert_same(np.isnan(y), expected)
    y = getattr(backend, name)(np.ones((3, 4), np.float32))
    assert_same(np.isnan(getattr(backend, f"{name}_grad")(x, y)), expected)


# --- errors


def test_wrong_arguments(backend, name):
    function, grad = getattr(backend, name), getattr(backend, f"{name}_grad")
    x = np.ones((5, 10))
    for wrong in (2, -3):
        message = rf"^{name}: axis is {wrong} but x is \(5, 10\); expected an axis of it$"
        with pytest.raises(ValueError, match=message):
            function(x, wrong)
    with pytest.raises(ValueError, match=rf"^{name}_grad: axis is 2 but dy is \(5, 10\); expected an axis of it$"):
        grad(x, x, 2)
    with pytest.raises(ValueError, match=rf"^{name}: axis is -1 but x is \(\); expected an axis of it$"):
        function(np.array(1.0))
    with pytest.raises(TypeError, match=f"^{name}: axis is 1.0; expected an int$"):
        function(x, 1.0)
    with pytest.raises(TypeError, match=f"^{name}: x is int64; expected float16, bfloat16, float32 or float64$"):
        function(np.arange(3))
    with pytest.raises(ValueError, match=rf"^{name}_grad: dy is \(10,\) but y is \(5, 10\); expected one shape$"):
        grad(x[0], x)
    with pytest.raises(TypeError, match=f"^{name}_grad: dy is float32, y is float64; expected one dtype for all$"):
        grad(x.astype(np.float32), x)
