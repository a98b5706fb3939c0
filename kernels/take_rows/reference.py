"""Rows of a table by their index, and the gradient to the table, on NumPy: the specification."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilegrad.kernels.checks import accumulator, float_dtype, is_int, require

_MOST = 1 << 31  # places, and rows: a place and a row then fit a word of 64 bits


def take_rows(
    x: np.ndarray, index: np.ndarray, scale: float | None = None, shift: float = 0.0, wrap: bool = True
) -> np.ndarray:
    """y[j] = x[index[j]]; with a scale, of uint8 images, y[j] = scale x[index[j]] + shift in float32.

    x      (N, ...) of any dtype, any strides; uint8 where there is a scale
    index  (M,) int32 | int64, -N <= index < N: negative ones count from the end, unless wrap is False
    ->     y (M, ...), row-major, of x's dtype, or float32

    Traffic: reads and writes the M rows once, and reads the index.
    Raises TypeError for dtypes, ValueError for shapes, IndexError for an index out of range. On a GPU that is raised at
    the next synchronisation, and the row of such an index is filled with bytes 0xFF, which are NaN or -1.
    """
    check_take_rows(x, index, scale)
    _require_inside("take_rows", index, len(x), wrap)
    y = x[index]
    if scale is None:
        return np.ascontiguousarray(y)
    y = np.multiply(y, np.float32(scale), dtype=np.float32, order="C")
    y += np.float32(shift)
    return y


@np.errstate(all="ignore")
def take_rows_grad(
    dy: np.ndarray, index: np.ndarray, rows: int, padding: int | None = None, wrap: bool = True
) -> np.ndarray:
    """dx[r] = the sum of dy[j] over all j with index[j] = r: the gradient of take_rows to its table.

    dy       (M, ...) float16, bfloat16, float32 or float64, any strides
    index    (M,) as take_rows has it
    rows     N of the table; N and M are below 2^31
    padding  a row, 0 <= padding < N, whose gradient is 0 whatever dy is there; or None
    ->       dx (N, ...), row-major, of dy's dtype

    A row's sum is taken in the order of the places j, in float32 for all but float64, and rounded once. So every
    backend has the same bits, and no number of threads or size of blocks changes them.

    Traffic: reads dy and the index once, writes dx once.
    Raises TypeError for dtypes, ValueError for shapes and padding, IndexError for an index out of range. On a GPU that
    is raised at the next synchronisation, and what lies at such an index is passed over.
    """
    dtype = check_take_rows_grad(dy, index, rows, padding)
    _require_inside("take_rows_grad", index, rows, wrap)
    dx = np.zeros((rows, *dy.shape[1:]), accumulator(dtype))
    if padding is not None:
        counts = np.where(index < 0, index + rows, index) != padding
        dy, index = dy[counts], index[counts]
    np.add.at(dx, index, dy.astype(dx.dtype, copy=False))
    return dx.astype(dtype, copy=False)


def _require_inside(op: str, index: np.ndarray, rows: int, wrap: bool) -> None:
    outside = np.flatnonzero((index < (-rows if wrap else 0)) | (index >= rows))
    if outside.size:
        raise row_error(op, rows, wrap, int(outside[0]), int(index[outside[0]]))


def check_take_rows(x: Any, index: Any, scale: float | None) -> None:
    """Raise as take_rows does, but for the values of the index."""
    op = "take_rows"
    require(x.ndim > 0, op, "x has no dimensions; expected (N, ...)")
    _check_index(op, index)
    if scale is not None and x.dtype != np.uint8:
        raise TypeError(f"{op}: x is {x.dtype}; expected uint8 where there is a scale")


def check_take_rows_grad(dy: Any, index: Any, rows: Any, padding: Any) -> np.dtype:
    """dy's dtype. Raise as take_rows_grad does, but for the values of the index."""
    op = "take_rows_grad"
    dtype = float_dtype(op, dy=dy)
    _check_index(op, index)
    require(dy.shape[:1] == index.shape, op, f"dy is {dy.shape} but index is {index.shape}; expected (M, ...) and (M,)")
    if not is_int(rows) or not (padding is None or is_int(padding)):
        raise TypeError(f"{op}: rows is {rows!r} and padding {padding!r}; expected ints, or None for padding")
    require(0 <= rows < _MOST > index.size, op, f"rows is {rows} and index {index.shape}; expected less than 2^31")
    if padding is not None:
        require(0 <= padding < rows, op, f"padding is {padding}; expected 0 <= padding < {rows}")
    return dtype


def _check_index(op: str, index: Any) -> None:
    require(index.ndim == 1, op, f"index is {index.shape}; expected (M,)")
    if index.dtype != np.int64 and index.dtype != np.int32:
        raise TypeError(f"{op}: index is {index.dtype}; expected int32 or int64")


def row_error(op: str, rows: int, wrap: bool, place: int, found: int) -> IndexError:
    """What is wrong with an index out of range."""
    return IndexError(f"{op}: index[{place}] is {found}; expected {-rows if wrap else 0} <= index < {rows}")
