"""Softmax and its logarithm along one axis, with their gradients: the NumPy specification.

For all of them: x, y and dy are float16, bfloat16, float32 or float64 arrays of one dtype and one shape, with any
strides; the result has that dtype and shape, and the memory order of its arguments. The 16-bit types are computed in
float32. A row is NaN if it contains NaN or +inf, or nothing but -inf; beside finite numbers -inf has
probability 0.

Each raises TypeError for another dtype or for two dtypes, ValueError for two shapes or an axis that does not
exist.

Traffic: a forward reads x once and writes y once where a row fits in cache; a gradient reads two arrays and
writes one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tilegrad.kernels.checks import accumulator, float_dtype, is_int

_quiet = np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore")  # log 0: an empty row


@_quiet
def softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    """y_i = exp(x_i - m) / sum_j exp(x_j - m), m = max_j x_j: no exponential overflows, the largest is 1."""
    dtype = check_softmax("softmax", axis, x=x)
    y = _shifted(x, axis)
    np.exp(y, out=y)
    y /= y.sum(axis, keepdims=True)
    return y.astype(dtype, copy=False)


@_quiet
def softmax_grad(dy: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    """dx_i = y_i (dy_i - sum_j dy_j y_j), from softmax's result."""
    dtype = check_softmax("softmax_grad", axis, dy=dy, y=y)
    dy, y = _wide(dy), _wide(y)
    dx = dy - (dy * y).sum(axis, keepdims=True)
    dx *= y
    return dx.astype(dtype, copy=False)


@_quiet
def log_softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    """y_i = (x_i - m) - log sum_j exp(x_j - m), m = max_j x_j: x is shifted before it is subtracted from."""
    dtype = check_softmax("log_softmax", axis, x=x)
    y = _shifted(x, axis)
    y -= np.log(np.exp(y).sum(axis, keepdims=True))
    return y.astype(dtype, copy=False)


@_quiet
def log_softmax_grad(dy: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    """dx_i = dy_i - exp(y_i) sum_j dy_j, from log_softmax's result."""
    dtype = check_softmax("log_softmax_grad", axis, dy=dy, y=y)
    dy, y = _wide(dy), _wide(y)
    dx = np.exp(y)
    dx *= -dy.sum(axis, keepdims=True)
    dx += dy
    return dx.astype(dtype, copy=False)


def check_softmax(op: str, axis: int, **arrays: Any) -> np.dtype:
    """The dtype of the one array, or of the two, that the primitive `op` was given. Raises as they do."""
    dtype = float_dtype(op, **arrays)
    names = [*arrays]
    a, b = arrays[names[0]], arrays[names[-1]]
    if a.shape != b.shape:
        raise ValueError(f"{op}: {names[0]} is {a.shape} but {names[-1]} is {b.shape}; expected one shape")
    if not is_int(axis):
        raise TypeError(f"{op}: axis is {axis!r}; expected an int")
    if not -a.ndim <= axis < a.ndim:
        raise ValueError(f"{op}: axis is {axis} but {names[0]} is {a.shape}; expected an axis of it")
    return dtype


def _shifted(x: np.ndarray, axis: int) -> np.ndarray:
    """x - max(x) as a new array; an empty row has nothing to shift."""
    x = _wide(x)
    return x - x.max(axis, keepdims=True, initial=-np.inf)


def _wide(x: np.ndarray) -> np.ndarray:
    return x.astype(accumulator(x.dtype), copy=False)
