"""The largest or smallest of rows and columns of float32 numbers, NaN where there is one, in vectors.

NumPy's loops for these take three times as long for rows of 32. LLVM makes vectors of a maximum of integers, not of one
of floats that may be NaN, so rows are compared as integers in the same order (kernels/cpu/scalar_math.py). `sign` is 1
for the largest, -1 for the smallest.
"""

from __future__ import annotations

import numpy as np

from tilegrad.kernels.cpu.code import njit
from tilegrad.kernels.cpu.reductions import Kernels
from tilegrad.kernels.cpu.rows import row as borrowed
from tilegrad.kernels.cpu.scalar_math import of_ordered, ordered, smaller
from tilegrad.kernels.cpu.team import share

_LEAST, _NAN = np.int32(-(2**31)), np.int32(2**31 - 1)  # below all numbers; above them, and NaN as a float


@njit(nogil=True, cache=True)
def _rows(sign, x, y, n, length, parts, begin, stop, part, team):
    """kernels.cpu.reductions.Kernels.rows"""
    if team:
        share(begin, stop, part, team)
        return
    sign = np.float32(sign)
    for item in range(begin, stop):
        row, first = item // parts, item % parts * length
        numbers = borrowed(x, row * n + first, smaller(length, n - first))
        best = _LEAST
        for i in range(numbers.size):
            key = ordered(sign * numbers[i])
            key = key if numbers[i] == numbers[i] else _NAN
            best = key if key > best else best
        y[item] = sign * of_ordered(best)


@njit(nogil=True)
def _better(a, b, sign):
    return a if (sign * a > sign * b) | (a != a) else b


@njit(nogil=True, cache=True)
def _columns(sign, x, y, n, inner, length, parts, width, begin, stop, part, team):
    """kernels.cpu.reductions.Kernels.columns"""
    if team:
        share(begin, stop, part, team)
        return
    sign = np.float32(sign)
    widths = -(-inner // width)
    for item in range(begin, stop):
        of, column = item // widths, item % widths * width
        columns = smaller(width, inner - column)
        row, first = of // parts, of % parts * length
        r, last = row * n + first, row * n + smaller(first + length, n)
        best = borrowed(y, of * inner + column, columns)
        a = borrowed(x, r * inner + column, columns)
        for i in range(best.size):
            best[i] = a[i]
        r += 1
        while r + 2 <= last:
            at = r * inner + column
            a, b = borrowed(x, at, columns), borrowed(x, at + inner, columns)
            for i in range(best.size):
                best[i] = _better(_better(best[i], a[i], sign), b[i], sign)
            r += 2
        if r < last:
            a = borrowed(x, r * inner + column, columns)
            for i in range(best.size):
                best[i] = _better(best[i], a[i], sign)


KERNELS = {np.maximum: Kernels(_rows, _columns, (1,)), np.minimum: Kernels(_rows, _columns, (-1,))}
