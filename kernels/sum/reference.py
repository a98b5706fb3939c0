"""Sums over axes on NumPy: the specification."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilegrad.kernels.checks import accumulator, float_dtype, is_int


def sum(x: np.ndarray, axes: tuple[int, ...], keepdims: bool = False) -> np.ndarray:
    """Sum over axes: y[k] = sum over r of x[k, r], r running over the axes given and k over the others.

    x         float16 | bfloat16 | float32 | float64, any shape and strides
    axes      each in [-x.ndim, x.ndim), none twice; () sums nothing and gives a copy
    keepdims  the axes stay, with size 1
    ->        y of x's dtype, with the other axes in their order; the sum of nothing is 0; 16-bit types are summed in
              float32

    Traffic: reads x.size * itemsize, writes y.size * itemsize.
    Raises ValueError for axes that x does not have or that are given twice, TypeError for dtypes and for `axes` that
    are not a tuple of ints.
    """
    dtype = check_sum(x, axes)
    with np.errstate(over="ignore", invalid="ignore"):  # infinity and NaN are results like any other
        return np.asarray(np.add.reduce(x, axes, accumulator(dtype), keepdims=keepdims), dtype)


def check_sum(x: Any, axes: tuple[int, ...]) -> np.dtype:
    """Raise as sum does; the dtype."""
    dtype = float_dtype("sum", x=x)
    if type(axes) is not tuple:
        raise TypeError(f"sum: axes is {axes!r}; expected a tuple of ints")
    ndim = x.ndim
    for axis in axes:
        if type(axis) is not int and not is_int(axis):
            raise TypeError(f"sum: axes is {axes!r}; expected a tuple of ints")
        if not -ndim <= axis < ndim:
            raise ValueError(f"sum: axes is {axes}; expected axes of x {x.shape}")
    if len(axes) > 1 and len({axis % ndim for axis in axes}) < len(axes):
        raise ValueError(f"sum: axes is {axes}; expected each axis once")
    return dtype
