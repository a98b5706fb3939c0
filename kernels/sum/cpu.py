"""Sums on the CPU, compiled: float32, of large dense arrays over any axes, and of the rows of small matrices.

The sum of a small matrix over its rows is the gradient of a bias, where calling NumPy takes longer than the additions.
All else is left to the reference.

Rows are summed in blocks of 1024, in float32 and in any order, and the blocks in float64 (kernels/cpu/long_sums.py).
Columns are summed from the first row to the last, at most 64 of them; their sums are summed the same way.
"""

from __future__ import annotations

import numpy as np

from tilegrad.kernels.cpu import reductions, threads, ufuncs
from tilegrad.kernels.cpu.code import njit
from tilegrad.kernels.cpu.effects import capturing, whole
from tilegrad.kernels.cpu.long_sums import REASSOC, total
from tilegrad.kernels.cpu.rows import row as borrowed
from tilegrad.kernels.cpu.scalar_math import smaller
from tilegrad.kernels.cpu.team import share
from tilegrad.kernels.sum import reference

_float32 = np.dtype(np.float32)
_ZERO = np.float32(0)


def sum(x: np.ndarray, axes: tuple[int, ...], keepdims: bool = False) -> np.ndarray:
    """sum.reference.sum. Traffic: reads 4 bytes an element of x, writes 4 of y."""
    if type(x) is np.ndarray and x.dtype == _float32 and type(axes) is tuple:
        if x.nbytes > threads.WORTH_SHARING:
            reference.check_sum(x, axes)
            y = reductions.reduced(_KERNELS, x, axes, keepdims)
            if y is not None:
                return y
        elif x.ndim == 2 and x.flags.carray and axes == (0,) and type(axes[0]) is int:
            y = np.empty((1, x.shape[1]) if keepdims else x.shape[1], np.float32)
            threads.share(sum_rows, 1, 1, x.reshape(1, *x.shape), y.reshape(1, -1))
            return y
        elif x.ndim <= 1 and len(axes) == x.ndim and capturing():  # there it needs no Python; the bits are NumPy's
            reference.check_sum(x, axes)
            y = ufuncs.sum_of_few(x)
            if y is not None:
                return y.reshape((1,) * x.ndim) if keepdims else y
    return whole(reference.sum, x, axes, keepdims)


@njit(nogil=True, cache=True)
def sum_rows(x, y, begin, stop, part, team):
    """y[n, c] = sum over r of x[n, r, c], for n from begin to stop; both float32 and contiguous."""
    if team:
        share(begin, stop, part, team)
        return
    for n in range(begin, stop):
        total, rows = y[n], x[n]
        for c in range(total.size):
            total[c] = _ZERO
        for r in range(rows.shape[0]):
            row = rows[r]
            for c in range(total.size):
                total[c] += row[c]


@njit(nogil=True, cache=True, fastmath=REASSOC)
def _rows(x, y, n, length, parts, begin, stop, part, team):
    """kernels.cpu.reductions.Kernels.rows"""
    if team:
        share(begin, stop, part, team)
        return
    for item in range(begin, stop):
        row, first = item // parts, item % parts * length
        y[item] = total(borrowed(x, row * n + first, smaller(length, n - first)))


@njit(nogil=True, cache=True)
def _columns(x, y, n, inner, length, parts, width, begin, stop, part, team):
    """kernels.cpu.reductions.Kernels.columns"""
    if team:
        share(begin, stop, part, team)
        return
    widths = -(-inner // width)
    for item in range(begin, stop):
        of, column = item // widths, item % widths * width
        columns = smaller(width, inner - column)
        row, first = of // parts, of % parts * length
        sums = borrowed(y, of * inner + column, columns)
        for i in range(sums.size):
            sums[i] = _ZERO
        r = row * n + first
        last = row * n + smaller(first + length, n)
        while r + 4 <= last:
            at = r * inner + column
            a, b = borrowed(x, at, columns), borrowed(x, at + inner, columns)
            c, d = borrowed(x, at + 2 * inner, columns), borrowed(x, at + 3 * inner, columns)
            for i in range(sums.size):
                sums[i] = (((sums[i] + a[i]) + b[i]) + c[i]) + d[i]
            r += 4
        while r < last:
            a = borrowed(x, r * inner + column, columns)
            for i in range(sums.size):
                sums[i] += a[i]
            r += 1


_KERNELS = reductions.Kernels(_rows, _columns)
