"""Sums over rows on the CPU, compiled: the gradient of a bias, where calling NumPy takes longer than the additions.

Served here are float32 matrices in C order, summed over their rows. All else is left to the reference.
"""

from __future__ import annotations

import numpy as np

from tilegrad.kernels.cpu import threads
from tilegrad.kernels.cpu.code import njit
from tilegrad.kernels.cpu.effects import whole
from tilegrad.kernels.cpu.team import share
from tilegrad.kernels.sum import reference

_float32 = np.dtype(np.float32)


def sum(x: np.ndarray, axes: tuple[int, ...], keepdims: bool = False) -> np.ndarray:
    """sum.reference.sum. Traffic: reads 4 bytes an element of x, writes 4 of y."""
    served = type(x) is np.ndarray and x.dtype == _float32 and x.ndim == 2 and x.flags.carray
    if not served or type(axes) is not tuple or axes != (0,) or type(axes[0]) is not int:
        return whole(reference.sum, x, axes, keepdims)
    y = np.empty((1, x.shape[1]) if keepdims else x.shape[1], np.float32)
    threads.share(sum_rows, 1, 1, x.reshape(1, *x.shape), y.reshape(1, -1))
    return y


@njit(nogil=True, cache=True)
def sum_rows(x, y, begin, stop, part, team):
    """y[n, c] = sum over r of x[n, r, c], for n from begin to stop; both float32 and contiguous."""
    if team:
        share(begin, stop, part, team)
        return
    for n in range(begin, stop):
        total, rows = y[n], x[n]
        total[:] = 0
        for r in range(rows.shape[0]):
            row = rows[r]
            for c in range(total.size):
                total[c] += row[c]
