"""What kernels/simulate/triton_interpreter.py puts right: rounding to bfloat16, products of bfloat16, TF32."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import triton.language as tl
from ml_dtypes import bfloat16

from tilegrad.kernels.launch.triton_kernel import INTERPRETED, kernel
from tilegrad.kernels.simulate import arrays as simulated

pytestmark = pytest.mark.skipif(not INTERPRETED, reason="kernels are not interpreted: they are compiled")


@kernel
def _cast_kernel(x_ptr, y_ptr, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(y_ptr + i, tl.load(x_ptr + i, mask=i < n).to(y_ptr.dtype.element_ty), mask=i < n)


@kernel
def _dot_kernel(a_ptr, b_ptr, c_ptr, N: tl.constexpr, PRECISION: tl.constexpr):
    i = tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :]
    tl.store(c_ptr + i, tl.dot(tl.load(a_ptr + i), tl.load(b_ptr + i), input_precision=PRECISION))


def dot(a, b, precision):
    c = simulated.empty(a.shape, np.float32)
    _dot_kernel((1,), simulated.asarray(a), simulated.asarray(b), c, N=len(a), PRECISION=precision)
    return c.get()


def test_bfloat16_rounds_to_nearest_even():
    ties = np.array([1 + 1 / 256, 1 + 3 / 256, -1 - 1 / 256, 3.4e38, np.inf, -0.0, 1e-40], np.float32)
    x = np.concatenate([ties, np.random.default_rng(0).standard_normal(100).astype(np.float32)])
    y = simulated.empty(len(x), bfloat16)
    _cast_kernel((1,), simulated.asarray(x), y, len(x), BLOCK=128)
    want = torch.from_numpy(x).to(torch.bfloat16)
    assert (y.get().view(np.int16) == want.view(torch.int16).numpy()).all()
    back = simulated.empty(len(x), np.float32)
    _cast_kernel((1,), y, back, len(x), BLOCK=128)
    assert (back.get() == want.float().numpy()).all()


def test_nan_stays_nan():
    y = simulated.zeros(2, bfloat16)
    _cast_kernel((1,), simulated.asarray(np.array([np.nan, 1], np.float32)), y, 2, BLOCK=2)
    assert np.isnan(y.get().astype(np.float32)).tolist() == [True, False]


def test_a_dot_of_bfloat16_is_that_of_its_values():
    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal((16, 16)).astype(bfloat16) for _ in range(2))
    np.testing.assert_allclose(dot(a, b, "ieee"), a.astype(np.float64) @ b.astype(np.float64), rtol=1e-5, atol=1e-6)


def test_tf32_has_ten_bits_and_tf32x3_wins_them_back():
    rng = np.random.default_rng(2)
    a, b = (rng.standard_normal((64, 64)).astype(np.float32) for _ in range(2))
    want = a.astype(np.float64) @ b.astype(np.float64)
    error = {p: np.abs(dot(a, b, p) - want).max() for p in ("ieee", "tf32", "tf32x3")}
    assert error["tf32"] > 100 * error["ieee"]
    assert error["tf32x3"] < 4 * error["ieee"]


def test_tf32_rounds_to_nearest():
    """1 + 2^-11 is halfway and goes up, 1 + 2^-12 goes down."""
    a = np.eye(16, dtype=np.float32)
    b = np.full((16, 16), 1 + 2.0**-12, np.float32)
    b[0] = 1 + 2.0**-11
    c = dot(a, b, "tf32")
    assert (c[0] == 1 + 2.0**-10).all() and (c[1:] == 1).all()


def test_infinity_passes_through_tf32():
    a = np.eye(16, dtype=np.float32)
    b = np.ones((16, 16), np.float32)
    b[0, 0] = np.inf
    assert np.isposinf(dot(a, b, "tf32")[0, 0])


@kernel
def _column_sums_kernel(x_ptr, y_ptr, M: tl.constexpr, N: tl.constexpr):
    rows, columns = tl.arange(0, M), tl.arange(0, N)
    tl.store(y_ptr + columns, tl.sum(tl.load(x_ptr + rows[:, None] * N + columns[None, :]), axis=0))


def test_a_sum_down_columns_loses_no_more_than_a_tree():
    x = np.random.default_rng(3).random((8192, 2), np.float32)
    y = simulated.empty(2, np.float32)
    _column_sums_kernel((1,), simulated.asarray(x), y, M=8192, N=2)
    want = x.astype(np.float64).sum(0)
    assert (np.abs(y.get() - want) <= 4 * np.spacing(want.astype(np.float32))).all()
    assert (np.abs(np.add.accumulate(x, 0)[-1] - want) > 8 * np.spacing(want.astype(np.float32))).any()
