"""take_rows against NumPy's indexing: dtypes, shapes, layouts, images that become floats, rows that are not there."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tests.compare import assert_close, assert_same
from tests.layouts import untouched
from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch import faults

DTYPES = [np.bool_, np.uint8, np.int16, np.int32, np.int64, np.float16, ml_dtypes.bfloat16, np.float32, np.float64]
SHAPES = [
    (1,),  # numbers
    (5,),
    (1, 1),  # degenerate
    (5, 10),  # ragged
    (7, 3, 5),  # an odd number of bytes
    (3, 257),  # one past a power of two
    (4, 0),  # rows of nothing
]


def table(rng, shape, dtype):
    return rng.integers(0, 100, shape).astype(dtype)


@pytest.mark.parametrize("numbers", DTYPES, ids=lambda d: np.dtype(d).name)
def test_dtypes(backend, numbers, rng):
    x, index = table(rng, (5, 3), numbers), np.array([4, 0, -1, 2, 0])
    with untouched(x, index):
        y = backend.take_rows(x, index)
    assert y.dtype == x.dtype and y.tobytes() == x[index].tobytes()


@pytest.mark.parametrize("index_dtype", [np.int32, np.int64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(backend, shape, index_dtype, rng):
    x = table(rng, shape, np.float32)
    for length in (0, 1, 6):
        index = rng.integers(-len(x), len(x), length).astype(index_dtype)
        assert_same(backend.take_rows(x, index), x[index])


def test_layouts(backend, layout, rng):
    x, index = layout(table(rng, (5, 3, 4), np.float32)), rng.integers(0, 5, 12)[::2]
    with untouched(x, index):
        assert_same(backend.take_rows(x, index), np.ascontiguousarray(x)[index])


def test_rows_at_odd_addresses(backend, rng):
    x = table(rng, (31,), np.uint8)[1:].reshape(6, 5)
    index = np.array([5, 0, 3])
    assert_same(backend.take_rows(x, index), x[index])


def test_rows_longer_than_a_block(backend, rng):
    x = rng.standard_normal((3, 2500)).astype(np.float32)
    index = np.array([2, 0])
    assert_same(backend.take_rows(x, index), x[index])


@pytest.mark.parametrize("shape", [(5, 1, 6, 7), (3, 257), (2, 0), (4,)], ids=str)
def test_images_become_floats(backend, shape, rng):
    x = rng.integers(0, 256, shape).astype(np.uint8)
    index = rng.integers(-len(x), len(x), 7)
    scale, shift = 1 / (255 * 0.3), -0.13 / 0.3
    with untouched(x, index):
        y = backend.take_rows(x, index, scale, shift)
    pixels = x[index]
    want = pixels * np.float64(np.float32(scale)) + np.float64(np.float32(shift))
    baseline = pixels * np.float32(scale) + np.float32(shift)
    assert y.flags.c_contiguous
    assert_close(y, want, baseline.astype(np.float32), scale=1.0)


@pytest.mark.parametrize("place, found", [(0, 5), (2, -6), (3, 2**40), (1, -(2**40))])
def test_a_row_that_is_not_there(backend, place, found):
    index = np.array([1, 2, 3, 4])
    index[place] = found
    told = max(min(found, 2**31 - 1), -(2**31)) if hasattr(backend, "module") else found
    with pytest.raises(IndexError, match=rf"take_rows: index\[{place}\] is {told}; expected -5 <= index < 5"):
        backend.take_rows(np.ones((5, 2), np.float32), index)


def test_negative_indices_can_be_refused(backend):
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    assert_same(backend.take_rows(x, np.array([2, 0]), wrap=False), x[[2, 0]])
    with pytest.raises(IndexError, match=r"take_rows: index\[1\] is -1; expected 0 <= index < 3"):
        backend.take_rows(x, np.array([2, -1]), wrap=False)


def test_a_table_without_rows(backend):
    x = np.ones((0, 3), np.float32)
    assert_same(backend.take_rows(x, np.zeros(0, np.int64)), x)
    with pytest.raises(IndexError, match=r"index\[0\] is 0"):
        backend.take_rows(x, np.zeros(2, np.int64))


@pytest.mark.parametrize("name", ["triton", "numba"])
def test_what_is_not_there_is_nan_or_minus_1(name):
    from tilegrad import kernels

    if not gpu.runs(name):
        pytest.skip("not simulated")
    xp, backend = gpu.xp(), kernels.load(name)
    index = xp.asarray(np.array([1, 7]))
    for dtype, want in ((np.float32, np.nan), (np.int64, -1)):
        y = backend.take_rows(xp.ones((3, 2), dtype), index)
        assert_same(xp.asnumpy(y), np.array([[1, 1], [want, want]], dtype))
    y = backend.take_rows(xp.ones((3, 2), np.uint8), index, 0.5, 0.25)
    assert_same(xp.asnumpy(y), np.array([[0.75, 0.75], [np.nan, np.nan]], np.float32))
    with pytest.raises(IndexError):
        faults.raise_pending()


@pytest.mark.parametrize(
    "x, index, scale, error, message",
    [
        (np.ones(()), np.zeros(1, np.int64), None, ValueError, r"x has no dimensions; expected \(N, ...\)"),
        (np.ones((2, 2)), np.zeros((1, 1), np.int64), None, ValueError, r"index is \(1, 1\); expected \(M,\)"),
        (np.ones((2, 2)), np.zeros(1), None, TypeError, "index is float64; expected int32 or int64"),
        (np.ones((2, 2)), np.zeros(1, np.uint8), None, TypeError, "index is uint8; expected int32 or int64"),
        (np.ones((2, 2)), np.zeros(1, np.int64), 2.0, TypeError, "x is float64; expected uint8 where there is a scale"),
    ],
)
def test_bad_arguments(backend, x, index, scale, error, message):
    with pytest.raises(error, match=f"take_rows: {message}"):
        backend.take_rows(x, index, scale)
