"""take_rows_grad: NumPy's bits on every backend, whatever the number of threads and the size of blocks."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import tilegrad as tg
from tests.compare import assert_same
from tests.layouts import untouched
from tilegrad import kernels
from tilegrad.kernels.cpu import threads
from tilegrad.kernels.device import gpu
from tilegrad.nn import functional as F

CASES = [  # rows, places, shape of a row
    (7, 30, (5,)),  # ragged
    (64, 80, (3, 43)),  # one past a power of two
    (1, 3, (1,)),  # one row of one number
    (9, 40, (1,)),  # numbers
    (5, 0, (3,)),  # no place
    (4, 6, (0,)),  # rows of nothing
    (3, 17, (2,)),  # each row many times: several rounds of those that are loaded at once
    (1000, 5, (4,)),  # most rows stay 0
]


def draw(rng, rows, places, row, dtype):
    return rng.standard_normal((places, *row)).astype(dtype), rng.integers(-rows, rows, places)


def summed(dy, index, rows, padding=None):
    """numpy.add.at in the accumulator's dtype."""
    wide = np.zeros((rows, *dy.shape[1:]), dy.dtype if dy.dtype == np.float64 else np.float32)
    np.add.at(wide, index, dy.astype(wide.dtype))
    if padding is not None:
        wide[padding] = 0
    return wide.astype(dy.dtype)


@pytest.mark.parametrize("index_dtype", [np.int64, np.int32])
@pytest.mark.parametrize(("rows", "places", "row"), CASES, ids=str)
def test_numpys_bits(backend, rows, places, row, index_dtype, dtype, rng):
    dy, index = draw(rng, rows, places, row, dtype)
    index = index.astype(index_dtype)
    with untouched(dy, index):
        dx = backend.take_rows_grad(dy, index, rows)
        without = backend.take_rows_grad(dy, index, rows, rows // 2)
    assert dx.flags.c_contiguous
    assert_same(dx, summed(dy, index, rows))
    assert_same(without, summed(dy, index, rows, rows // 2))


def test_layouts(backend, layout, rng):
    dy, index = layout(rng.standard_normal((12, 3, 4)).astype(np.float32)), rng.integers(0, 5, 24)[::2]
    with untouched(dy, index):
        assert_same(backend.take_rows_grad(dy, index, 5), summed(np.ascontiguousarray(dy), index, 5))


def test_an_incoming_gradient_of_stride_0(backend):
    dy = np.broadcast_to(np.float32(0.75), (6, 5))
    assert_same(backend.take_rows_grad(dy, np.array([1, 2, 1, 1, 0, 2]), 4)[:, 0], np.float32([0.75, 2.25, 1.5, 0]))


def test_nan_stays_in_its_row_and_padding_hides_it(backend):
    dy = np.float32([[1, np.nan], [2, np.inf], [3, 4]])
    index = np.array([1, 0, 1])
    assert_same(backend.take_rows_grad(dy, index, 3), np.float32([[2, np.inf], [4, np.nan], [0, 0]]))
    assert_same(backend.take_rows_grad(dy, index, 3, 1), np.float32([[2, np.inf], [0, 0], [0, 0]]))


@pytest.mark.parametrize("name", ["triton", "numba"])
def test_more_places_than_are_sorted_at_once(name, rng, monkeypatch):
    """Runs of one key are merged, and the last one is short, or has no other beside it."""
    if not gpu.runs(name):
        pytest.skip("not simulated")
    backend = kernels.load(name)
    if name == "triton":
        monkeypatch.setattr("tilegrad.kernels.take_rows.gpu_triton.CHUNK", 4)
        monkeypatch.setattr("tilegrad.kernels.take_rows.gpu_triton.MERGED", 8)
    for places in (3, 4, 5, 8, 9, 13, 33):
        dy, index = draw(rng, 6, places, (3,), np.float32)
        dx = backend.take_rows_grad(gpu.xp().asarray(dy), gpu.xp().asarray(index), 6)
        assert_same(gpu.xp().asnumpy(dx), summed(dy, index, 6))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_number_of_threads_changes_no_bit(count, rng, monkeypatch):
    monkeypatch.setattr(threads, "_count", count)
    dy, index = draw(rng, 300, 1000, (64,), np.float32)
    assert_same(kernels.load("cpu").take_rows_grad(dy, index, 300), summed(dy, index, 300))


@pytest.mark.parametrize("place, found", [(0, 5), (2, -6), (3, 2**40)])
def test_a_row_that_is_not_there(backend, place, found):
    index = np.array([1, 2, 3, 4])
    index[place] = found
    told = min(found, 2**31 - 1) if hasattr(backend, "module") else found
    with pytest.raises(IndexError, match=rf"take_rows_grad: index\[{place}\] is {told}; expected -5 <= index < 5"):
        backend.take_rows_grad(np.ones((4, 2), np.float32), index, 5)
    with pytest.raises(IndexError, match=r"take_rows_grad: index\[1\] is -1; expected 0 <= index < 5"):
        backend.take_rows_grad(np.ones((2, 2), np.float32), np.array([1, -1]), 5, wrap=False)
    assert_same(backend.take_rows_grad(np.ones((1, 1), np.float32), np.array([1]), 2), np.float32([[0], [1]]))


ONES, INDEX = np.ones((3, 2), np.float32), np.array([0, 1, 1])


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((ONES.astype(int), INDEX, 3), TypeError, "dy is int64; expected float16"),
        ((ONES, INDEX[:2], 3), ValueError, r"dy is \(3, 2\) but index is \(2,\); expected \(M, ...\) and \(M,\)"),
        ((ONES, INDEX[None], 3), ValueError, r"index is \(1, 3\); expected \(M,\)"),
        ((ONES, INDEX.astype(float), 3), TypeError, "index is float64; expected int32 or int64"),
        ((ONES, INDEX, 3.0), TypeError, "rows is 3.0 and padding None; expected ints"),
        ((ONES, INDEX, 3, 3), ValueError, "padding is 3; expected 0 <= padding < 3"),
        ((ONES, INDEX, 1 << 31), ValueError, "rows is 2147483648 and index .*; expected less than 2.31"),
    ],
)
def test_bad_arguments(backend, arguments, error, message):
    with pytest.raises(error, match=f"take_rows_grad: {message}"):
        backend.take_rows_grad(*arguments)


def test_bfloat16_is_added_in_float32():
    dy = np.full((300, 1), 1, ml_dtypes.bfloat16)
    for name in ("reference", "cpu"):
        dx = kernels.load(name).take_rows_grad(dy, np.zeros(300, np.int64), 1)
        assert dx.item() == 300  # which bfloat16 has, and does not reach in steps of 1


def test_an_embeddings_gradient_is_a_kernel_of_a_captured_step():
    w = tg.zeros(5, 3, requires_grad=True)

    @tg.capture
    def step(index):
        w.grad = None
        F.embedding(index, w).sum().backward()

    for index in ([0, 2, 2], [4, 4, 4], [1, 0, 1]):
        step(tg.tensor(index))
        assert w.grad[:, 0].tolist() == np.bincount(index, minlength=5).tolist()
    assert "add_rows_kernel" in step.summary() and "add_at" not in step.summary(), step.summary()
    with pytest.raises(IndexError):
        step(tg.tensor([0, 1, 5]))
