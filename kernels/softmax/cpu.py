"""Softmax and its logarithm on the CPU, compiled: two or three passes over a row, of which the first reads memory.

Served here are arrays in C order along their last axis: float32, and the 16-bit types by way of float32. All else is
left to the reference. Two cores with AVX-512, shared with other work; 1664 rows of 1664 in milliseconds, and 512 rows
of 10 in microseconds:

    |              | reference | in chunks | here    | torch    |
    | softmax      | 9.2, 106  | 3.1, 59   | 2.3, 69 | 2.4, 101 |
    | its gradient | 9.3, 39   |           | 1.8, 29 | 1.8, 64  |
    | log_softmax  | 10.5, 106 |           | 2.2, 79 | 2.6, 91  |
    | its gradient | 7.7, 40   | 2.2, 28   | 2.5, 38 | 2.2, 62  |

"In chunks" is the form of softmax_xent/cpu.py: the exponentials of many short rows are one loop, which is one more
pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tilegrad.kernels.checks import bfloat16
from tilegrad.kernels.cpu import buffers, long_sums, threads
from tilegrad.kernels.cpu.apart import load, store
from tilegrad.kernels.cpu.code import njit
from tilegrad.kernels.cpu.effects import whole
from tilegrad.kernels.cpu.long_sums import BLOCK, REASSOC
from tilegrad.kernels.cpu.rows import row
from tilegrad.kernels.cpu.scalar_math import exp, of_ordered, ordered
from tilegrad.kernels.cpu.team import share
from tilegrad.kernels.softmax import reference

_float32 = np.dtype(np.float32)
_SERVED = _float32, np.dtype(np.float16), bfloat16
_ZERO, _LARGEST = np.float32(0), np.float32(176)
# REASSOC is for sums alone; exp has flags of its own. A loop that sums and also writes an array uses cpu/apart.py.


def softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    """softmax.reference.softmax. Traffic: reads 4, writes 4 bytes an element."""
    return _along_rows(_softmax, reference.softmax, axis, x)


def softmax_grad(dy: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    """softmax.reference.softmax_grad. Traffic: reads 8, writes 4 bytes an element."""
    return _along_rows(_softmax_grad, reference.softmax_grad, axis, dy, y)


def log_softmax(x: np.ndarray, axis: int = -1) -> np.ndarray:
    """softmax.reference.log_softmax. Traffic: reads 4, writes 4 bytes an element."""
    return _along_rows(_log_softmax, reference.log_softmax, axis, x)


def log_softmax_grad(dy: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    """softmax.reference.log_softmax_grad. Traffic: reads 8, writes 4 bytes an element."""
    return _along_rows(_log_softmax_grad, reference.log_softmax_grad, axis, dy, y)


def _along_rows(
    kernel: Callable[..., None], specification: Callable[..., np.ndarray], axis: int, *arrays: np.ndarray
) -> np.ndarray:
    """The kernel over the rows of the arrays; the specification for arrays that are not served."""
    if not _are_rows(axis, *arrays):
        return whole(specification, *arrays, axis)
    if arrays[0].dtype != _float32:
        return whole(_rounded_once, kernel, *arrays)
    return _rows(kernel, *arrays)


def _are_rows(axis: Any, *arrays: Any) -> bool:
    """Whether the arrays pass the reference's checks, and the axis is their last in memory."""
    a = arrays[0]
    for other in arrays:
        if type(other) is not np.ndarray or other.dtype not in _SERVED or not other.size:
            return False
        if other.dtype != a.dtype or other.shape != a.shape:
            return False
        if not (other.flags.c_contiguous and other.flags.aligned):
            return False
    return type(axis) is int and a.ndim > 0 and axis in (-1, a.ndim - 1)


def _rows(kernel: Callable[..., None], *arrays: np.ndarray) -> np.ndarray:
    result, n = buffers.empty(arrays[0].shape, _float32), arrays[0].shape[-1]
    rows = result.size // n
    flat = [a.reshape(-1) for a in (*arrays, result)]  # loops over matrices take half a second more to compile
    threads.share(kernel, rows if result.nbytes > threads.WORTH_SHARING else 1, rows, *flat, n)
    return result


def _rounded_once(kernel: Callable[..., None], *arrays: np.ndarray) -> np.ndarray:
    """The kernel for 16-bit arrays: computed in float32, rounded once."""
    with np.errstate(all="ignore"):
        return _rows(kernel, *[a.astype(_float32) for a in arrays]).astype(arrays[0].dtype)


@njit(nogil=True, cache=True, error_model="numpy")
def _softmax(x, y, n, begin, stop, part, team):
    if team:
        share(begin, stop, part, team)
        return
    for i in range(begin, stop):
        out = row(y, i * n, n)
        total = np.float32(_exp_of_shifted(row(x, i * n, n), out))
        for j in range(n):
            out[j] /= total


@njit(nogil=True, cache=True, error_model="numpy")
def _log_softmax(x, y, n, begin, stop, part, team):
    if team:
        share(begin, stop, part, team)
        return
    for i in range(begin, stop):
        out = row(y, i * n, n)
        log = np.float32(np.log(_shift(row(x, i * n, n), out)))
        for j in range(n):
            out[j] -= log


@njit(nogil=True, cache=True)
def _softmax_grad(dy, y, dx, n, begin, stop, part, team):
    if team:
        share(begin, stop, part, team)
        return
    for i in range(begin, stop):
        dy_row, y_row, out = row(dy, i * n, n), row(y, i * n, n), row(dx, i * n, n)
        total = np.float32(_dot(dy_row, y_row))
        for j in range(n):
            out[j] = (dy_row[j] - total) * y_row[j]


@njit(nogil=True, cache=True)
def _log_softmax_grad(dy, y, dx, n, begin, stop, part, team):
    if team:
        share(begin, stop, part, team)
        return
    for i in range(begin, stop):
        dy_row, y_row, out = row(dy, i * n, n), row(y, i * n, n), row(dx, i * n, n)
        total = np.float32(long_sums.total(dy_row))
        for j in range(n):  # a y above 0 is no log-probability, but must not give nonsense
            out[j] = dy_row[j] - total * exp(_LARGEST if y_row[j] > _LARGEST else y_row[j])


@njit(nogil=True)
def maximum(x):
    """max(x). A negative NaN is passed over: the result is NaN anyhow, as it is computed from each number too."""
    most = ordered(x[0])
    for j in range(x.size):
        number = ordered(x[j])
        most = number if number > most else most
    return of_ordered(most)


@njit(nogil=True, fastmath=REASSOC)
def _exp_of_shifted(x, y):
    """y = exp(x - max(x)); their sum."""
    total, m = 0.0, maximum(x)
    for first in range(0, x.size, BLOCK):
        block_x, block, part = x[first : first + BLOCK], y[first : first + BLOCK], _ZERO
        for j in range(block.size):
            e = exp(load(block_x, j) - m)
            store(block, j, e)
            part += e
        total += part
    return total


@njit(nogil=True, fastmath=REASSOC)
def _shift(x, y):
    """y = x - max(x); the sum of their exponentials."""
    total, m = 0.0, maximum(x)
    for first in range(0, x.size, BLOCK):
        block_x, block, part = x[first : first + BLOCK], y[first : first + BLOCK], _ZERO
        for j in range(block.size):
            v = load(block_x, j) - m
            store(block, j, v)
            part += exp(v)
        total += part
    return total


@njit(nogil=True, fastmath=REASSOC)
def sum_of_exp(x, m):
    """sum exp(x - m), m = max(x)."""
    total = 0.0
    for first in range(0, x.size, BLOCK):
        block, part = x[first : first + BLOCK], _ZERO
        for j in range(block.size):
            part += exp(block[j] - m)
        total += part
    return total


@njit(nogil=True, fastmath=REASSOC)
def _dot(a, b):
    total = 0.0
    for first in range(0, a.size, BLOCK):
        block_a, block_b, part = a[first : first + BLOCK], b[first : first + BLOCK], _ZERO
        for j in range(block_a.size):
            part += block_a[j] * block_b[j]
        total += part
    return total
