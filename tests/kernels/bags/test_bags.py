"""Sums and maxima of bags against loops over them: empty bags, the padding, both lengths of offsets, bad indices."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tests.compare import assert_same
from tests.layouts import untouched
from tilegrad import kernels
from tilegrad.kernels.cpu import threads

CASES = {  # rows, shape of a row, offsets, places
    "ragged": (7, (5,), [0, 3, 3, 4, 9], 13),
    "the last offset is an end": (7, (5,), [0, 3, 3, 9], 13),
    "starts late": (7, (3,), [2, 3, 6], 8),
    "one past a power of two": (64, (3, 43), [0, 17], 33),
    "numbers": (9, (), [0, 1, 8], 8),
    "one number": (1, (1,), [0], 3),
    "all bags empty": (4, (3,), [0, 0, 0], 0),
    "no bag": (4, (3,), [0], 2),
    "rows of nothing": (4, (0,), [0, 2], 4),
    "every row many times": (3, (2,), [0, 20], 41),
}
CLOSED = ("the last offset is an end", "no bag")


def case(name, dtype, rng):
    rows, row, offsets, places = CASES[name]
    bags = len(offsets) - (name in CLOSED)
    x = rng.integers(-3, 4, (rows, *row)).astype(dtype)  # equals are frequent
    return x, rng.integers(0, rows, places), np.array(offsets), bags


def members(index, offsets, bags, padding):
    ends = [*offsets, len(index)]
    return [[i for i in index[ends[b] : ends[b + 1]] if i != padding] for b in range(bags)]


def wide(x):
    return x.astype(np.float64 if x.dtype == np.float64 else np.float32)


def summed(x, index, offsets, bags, padding=None, mean=False):
    y = np.zeros((bags, *x.shape[1:]), wide(x).dtype)
    for b, rows in enumerate(members(index, offsets, bags, padding)):
        for i in rows:
            y[b] += wide(x)[i]
        if mean and rows:
            y[b] /= y.dtype.type(len(rows))
    return y.astype(x.dtype)


def added(dy, index, offsets, rows, padding=None):
    dx = np.zeros((rows, *dy.shape[1:]), wide(dy).dtype)
    for b, found in enumerate(members(index, offsets, len(dy), padding)):
        for i in found:
            dx[i] += wide(dy)[b]
    return dx.astype(dy.dtype)


def largest(x, index, offsets, bags, padding=None):
    best = np.full((bags, *x.shape[1:]), -1)
    for b, rows in enumerate(members(index, offsets, bags, padding)):
        if rows:
            best[b] = np.array(rows)[wide(x)[rows].argmax(0)]
    return best


def values(x, rows):
    """The elements of x in these rows; 0 where there is none."""
    found = np.take_along_axis(x, np.maximum(rows, 0), 0) if x.ndim > 1 else x[np.maximum(rows, 0)]
    return np.where(rows < 0, x.dtype.type(0), found)


@pytest.mark.parametrize("name", CASES)
def test_bags(backend, name, dtype, rng):
    x, index, offsets, bags = case(name, dtype, rng)
    fine = rng.standard_normal(x.shape).astype(dtype)
    dy = rng.standard_normal((bags, *x.shape[1:])).astype(dtype)
    for padding in (None, len(x) // 2):
        with untouched(x, fine, dy, index, offsets):
            for of in (x, fine):
                y = backend.sum_bags(of, index, offsets, bags, padding)
                most, best = backend.max_bags(of, index.astype(np.int32), offsets, bags, padding)
                assert y.flags.c_contiguous and most.flags.c_contiguous and best.flags.c_contiguous
                assert_same(y, summed(of, index, offsets, bags, padding))
                assert_same(best, largest(of, index, offsets, bags, padding))
                assert_same(most, values(of, best))
            mean = backend.sum_bags(fine, index, offsets, bags, padding, mean=True)
            dx = backend.sum_bags_grad(dy, index, offsets.astype(np.int32), len(x), padding)
        assert dx.flags.c_contiguous
        assert_same(dx, added(dy, index, offsets, len(x), padding))
        assert_same(mean, summed(fine, index, offsets, bags, padding, mean=True))


def test_layouts(backend, layout, rng):
    x, dy = (layout(rng.standard_normal((4, 3, 4)).astype(np.float32)) for _ in range(2))
    index, offsets = rng.integers(0, 4, 24)[::2], np.array([0, 9, 1, 9, 5, 9, 5, 9])[::2]
    with untouched(x, dy):
        assert_same(backend.sum_bags(x, index, offsets, 4), summed(x, index, offsets, 4))
        assert_same(backend.max_bags(x, index, offsets, 4)[1], largest(x, index, offsets, 4))
        assert_same(backend.sum_bags_grad(dy, index, offsets, 5), added(dy, index, offsets, 5))


def test_an_incoming_gradient_of_stride_0(backend):
    dy = np.broadcast_to(np.float32(0.75), (2, 5))
    dx = backend.sum_bags_grad(dy, np.array([1, 2, 1, 0]), np.array([0, 3]), 4)
    assert_same(dx[:, 0], np.float32([0.75, 1.5, 0.75, 0]))


def test_nan_and_infinity(backend):
    x = np.float32([[1, np.nan], [2, np.nan], [np.nan, -np.inf], [5, 3]])
    index, offsets = np.array([0, 3, 2, 1, 2, 3, 1]), np.array([0, 4, 6])
    with np.errstate(invalid="ignore"):
        assert_same(backend.sum_bags(x, index, offsets, 3), summed(x, index, offsets, 3))
    most, best = backend.max_bags(x, index, offsets, 3)
    assert_same(best, np.array([[2, 0], [2, 3], [1, 1]]))
    assert_same(most, values(x, best))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_number_of_threads_changes_no_bit(count, rng, monkeypatch):
    monkeypatch.setattr(threads, "_count", count)
    x, dy = (rng.standard_normal((300, 64)).astype(np.float32) for _ in range(2))
    index, offsets = rng.integers(0, 300, 6000), np.sort(rng.integers(0, 6000, 300))
    cpu = kernels.load("cpu")
    assert_same(cpu.sum_bags(x, index, offsets, 300), summed(x, index, offsets, 300))
    assert_same(cpu.max_bags(x, index, offsets, 300)[1], largest(x, index, offsets, 300))
    assert_same(cpu.sum_bags_grad(dy, index, offsets, 300), added(dy, index, offsets, 300))


ONES, INDEX, OFFSETS = np.ones((3, 2), np.float32), np.array([0, 1, 1]), np.array([0, 2])


@pytest.mark.parametrize("primitive", ["sum_bags", "max_bags", "sum_bags_grad"])
@pytest.mark.parametrize("place, found", [(0, 3), (2, -1), (1, 2**40)])
def test_a_row_that_is_not_there(backend, primitive, place, found):
    index = INDEX.copy()
    index[place] = found
    told = min(found, 2**31 - 1) if hasattr(backend, "module") else found
    x, last = (ONES[:2], 3) if primitive == "sum_bags_grad" else (ONES, 2)
    op = f"{primitive}|take_rows_grad" if last == 3 else primitive  # which adds the rows on a GPU
    with pytest.raises(IndexError, match=rf"({op}): index\[{place}\] is {told}; expected 0 <= index < 3"):
        getattr(backend, primitive)(x, index, OFFSETS, last)


@pytest.mark.parametrize("primitive", ["sum_bags", "max_bags"])
@pytest.mark.parametrize("offsets, place, found", [([0, 2, 1], 2, 1), ([-1, 2, 3], 0, -1), ([0, 1, 4], 2, 4)], ids=str)
def test_offsets_out_of_order(backend, primitive, offsets, place, found):
    with pytest.raises(ValueError, match=rf"{primitive}: offsets\[{place}\] is {found}; expected 0 <= offsets <= 3"):
        getattr(backend, primitive)(ONES, INDEX, np.array(offsets), 3)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((ONES.astype(int), INDEX, OFFSETS, 2), TypeError, "x is int64; expected float16"),
        ((ONES[0, 0], INDEX, OFFSETS, 2), ValueError, "x has no dimensions"),
        ((ONES, INDEX[None], OFFSETS, 2), ValueError, r"index is \(1, 3\); expected one dimension"),
        ((ONES, INDEX, OFFSETS.astype(float), 2), TypeError, "offsets is float64; expected int32 or int64"),
        ((ONES, INDEX, OFFSETS, 3), ValueError, r"offsets is \(2,\); expected 3 or one more"),
        ((ONES, INDEX, OFFSETS[:0], 0), ValueError, r"offsets is \(0,\); expected at least one"),
        ((ONES, INDEX, OFFSETS, 2.0), TypeError, "bags, rows and padding are 2.0"),
        ((ONES, INDEX, OFFSETS, 2, 3), ValueError, "padding is 3; expected 0 <= padding < 3"),
    ],
)
def test_bad_arguments(backend, arguments, error, message):
    for name in ("sum_bags", "max_bags"):
        with pytest.raises(error, match=f"{name}: {message}"):
            getattr(backend, name)(*arguments)


def test_bfloat16_is_added_in_float32():
    x = np.full((1, 1), 1, ml_dtypes.bfloat16)
    for name in ("reference", "cpu"):
        y = kernels.load(name).sum_bags(x, np.zeros(300, np.int64), np.array([0]), 1)
        assert y.item() == 300  # which bfloat16 has, and does not reach in steps of 1
