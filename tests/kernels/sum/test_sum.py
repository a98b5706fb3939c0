"""Sums over axes against NumPy in float64: shapes, axes, layouts, rounding, NaN, errors."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest
from ml_dtypes import bfloat16

from tests.compare import assert_close, assert_same
from tests.layouts import untouched

SHAPES = [
    ((), ()),  # 0-d: nothing to sum
    ((1, 1), (0,)),  # degenerate
    ((5, 10), ()),  # no axis: a copy
    ((5, 10), (1,)),  # rows
    ((5, 10), (0,)),  # columns, as a bias gradient
    ((5, 10), (-2, -1)),  # everything, counted from the end
    ((0, 10), (0,)),  # the sum of nothing
    ((0, 10), (1,)),  # no sum at all
    ((33, 257), (1,)),  # one past a tile
    ((257, 33), (0,)),
    ((3, 4096), (1,)),  # wide
    ((4096, 3), (0,)),  # long
    ((40001,), (0,)),  # one long row, in parts
    ((9001, 5), (0,)),  # a few long columns, in parts
    ((2, 3, 4, 5), (0, 2, 3)),  # over images, a conv2d's bias gradient
    ((2, 3, 4, 5), (1,)),  # over channels
    ((2, 3, 4, 5), (3, 0)),  # in any order
    ((2, 3, 2, 3, 2, 3), (0, 2, 4)),  # alternating
    ((3, 1, 4, 1), (1, 2)),  # axes of size 1
]


def check(backend, x, axes, keepdims=False):
    with untouched(x):
        y = backend.sum(x, axes, keepdims)
    wide = x.astype(np.float32) if x.dtype == bfloat16 else x
    want, baseline = (wide.sum(axes, dtype=dtype, keepdims=keepdims) for dtype in (np.float64, _wide(x.dtype)))
    on_the_way = max(1, x.size // max(1, y.size)) ** 0.5  # the size of a sum of so many terms of both signs
    assert_close(y, np.asarray(want, np.float64), np.asarray(baseline).astype(x.dtype), scale=on_the_way)
    return y


def _wide(dtype):
    return np.float64 if dtype == np.float64 else np.float32


@pytest.mark.parametrize("shape, axes", SHAPES, ids=str)
def test_values(backend, shape, axes, dtype, rng):
    check(backend, rng.standard_normal(shape).astype(dtype), axes)


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axes", [each for n in range(4) for each in itertools.combinations(range(3), n)], ids=str)
def test_layouts(backend, layout, axes, keepdims, rng):
    check(backend, layout(rng.standard_normal((5, 3, 4)).astype(np.float32)), axes, keepdims)


def test_layouts_of_halves(backend, layout, dtype, rng):
    x = layout(rng.standard_normal((2, 3, 4, 5)).astype(dtype))
    for axes in ((0, 2, 3), (1,), (0, 2)):
        check(backend, x, axes)


def test_axes_in_any_memory_order(backend, rng):
    """Every permutation of four axes, with holes: the axes merge in some and not in others."""
    for order in itertools.permutations(range(4)):
        x = rng.standard_normal((2, 3, 4, 6)).astype(np.float32)[:, :, :, ::2].transpose(order)
        check(backend, x, (0, 2))


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)], ids=str)
def test_stride_0(backend, axes, dtype, rng):
    """One row, one column and one number for all: what expand makes, and backward sums again."""
    for shape in ((1, 7), (5, 1), (1, 1)):
        check(backend, np.broadcast_to(rng.standard_normal(shape).astype(dtype), (5, 7)), axes)


def test_every_other_element_backwards(backend, rng):
    x = rng.standard_normal((9, 12)).astype(np.float32)[::-2, ::3]
    for axes in ((0,), (1,), (0, 1)):
        check(backend, x, axes)


def test_the_result_keeps_the_memory_order(backend, rng):
    x = np.moveaxis(rng.standard_normal((2, 4, 5, 3)).astype(np.float32), 3, 1)
    assert backend.sum(x, (0,)).transpose(1, 2, 0).flags.c_contiguous
    assert backend.sum(np.ascontiguousarray(x), (0,)).flags.c_contiguous


def test_nan_and_infinity(backend, dtype):
    x = np.ones((6, 4), dtype)
    x[0] = [np.nan, np.inf, -np.inf, np.inf]
    x[5, 3] = -np.inf
    want = np.array([np.nan, np.inf, -np.inf, np.nan], dtype)
    assert_same(backend.sum(x, (0,)), want)
    assert_same(backend.sum(np.ascontiguousarray(x.T), (1,)), want)


@pytest.mark.parametrize("dtype", [np.float16, bfloat16], ids=str)
def test_halves_are_summed_in_float32(backend, dtype):
    """Added in halves, ones would stop counting."""
    last = dtype(2 / ml_dtypes.finfo(dtype).eps)  # the first integer whose successor is no half
    ones = np.ones((4 * int(last), 2), dtype)
    want = np.full(2, 4 * last, dtype)
    assert_same(backend.sum(ones, (0,)), want)
    assert_same(backend.sum(np.ascontiguousarray(ones.T), (1,)), want)


def test_what_overflows_float16_on_the_way(backend):
    big = np.array([60000, 60000, -60000, -60000, 1], np.float16)
    assert_same(backend.sum(big, (0,)), np.array(1, np.float16))
    assert_same(backend.sum(big[:2], (0,)), np.array(np.inf, np.float16))


def test_a_sum_of_float32_loses_little(backend):
    """100000 times 0.1, which one chain of float32 additions gives as 9998.6."""
    x = np.full(100_000, 0.1, np.float32)
    want = x.astype(np.float64).sum(keepdims=True)
    assert_close(backend.sum(x, (0,), True), want, want.astype(np.float32))
    assert_close(backend.sum(np.broadcast_to(x[:, None], (100_000, 1)), (0,)), want, want.astype(np.float32))


def test_two_runs_give_the_same_bits(backend, rng):
    x = rng.standard_normal((9001, 5)).astype(np.float32)
    assert_same(backend.sum(x, (0,)), backend.sum(x.copy(), (0,)))


X = np.zeros((2, 3), np.float32)
ERRORS = {
    "no array": (([1.0], (0,)), TypeError, "x is a list; expected an array"),
    "integers": ((np.zeros(3, int), (0,)), TypeError, "x is int64; expected float16, bfloat16, float32 or float64"),
    "an int": ((X, 0), TypeError, "axes is 0; expected a tuple of ints"),
    "a list": ((X, [0]), TypeError, "axes is [0]; expected a tuple of ints"),
    "a bool": ((X, (True,)), TypeError, "axes is (True,); expected a tuple of ints"),
    "None": ((X, None), TypeError, "axes is None; expected a tuple of ints"),
    "too large": ((X, (0, 2)), ValueError, "axes is (0, 2); expected axes of x (2, 3)"),
    "too small": ((X, (-3,)), ValueError, "axes is (-3,); expected axes of x (2, 3)"),
    "0-d": ((X[0, 0], (0,)), ValueError, "axes is (0,); expected axes of x ()"),
    "twice": ((X, (1, -1)), ValueError, "axes is (1, -1); expected each axis once"),
}


@pytest.mark.parametrize(("arguments", "kind", "message"), ERRORS.values(), ids=ERRORS.keys())
def test_errors(backend, arguments, kind, message):
    with pytest.raises(kind) as error:
        backend.sum(*arguments)
    assert str(error.value) == f"sum: {message}"
