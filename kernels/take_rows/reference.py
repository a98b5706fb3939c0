"""Rows of a table by their index on NumPy: the specification."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilegrad.kernels.checks import require


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
    outside = np.flatnonzero((index < (-len(x) if wrap else 0)) | (index >= len(x)))
    if outside.size:
        raise row_error("take_rows", len(x), wrap, int(outside[0]), int(index[outside[0]]))
    y = x[index]
    if scale is None:
        return np.ascontiguousarray(y)
    y = np.multiply(y, np.float32(scale), dtype=np.float32, order="C")
    y += np.float32(shift)
    return y


def check_take_rows(x: Any, index: Any, scale: float | None) -> None:
    """Raise as take_rows does, but for the values of the index."""
    op = "take_rows"
    require(x.ndim > 0, op, "x has no dimensions; expected (N, ...)")
    require(index.ndim == 1, op, f"index is {index.shape}; expected (M,)")
    if index.dtype != np.int64 and index.dtype != np.int32:
        raise TypeError(f"{op}: index is {index.dtype}; expected int32 or int64")
    if scale is not None and x.dtype != np.uint8:
        raise TypeError(f"{op}: x is {x.dtype}; expected uint8 where there is a scale")


def row_error(op: str, rows: int, wrap: bool, place: int, found: int) -> IndexError:
    """What is wrong with an index out of range."""
    return IndexError(f"{op}: index[{place}] is {found}; expected {-rows if wrap else 0} <= index < {rows}")
