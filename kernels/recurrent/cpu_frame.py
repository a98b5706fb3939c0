"""What the compiled recurrent layers share: a piece's rows of the batch go through all steps by themselves.

A sequence does not need the others, so each thread takes some of them from the first step to the last, and none waits
for another. In a step the product of the states and the weight comes first, on the register tile; then the gates, row
by row, while the sums are in the first cache. The inputs' part is added to whole sums: if they began with it, small
terms would be added to a large number one by one. The weight is laid out in panels once, and read from the second cache
at every step.

A width that is no whole number of vectors is filled up with zeros in scratch memory; otherwise sums are made where the
results go.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tilegrad.kernels.cpu.apart import load, store
from tilegrad.kernels.cpu.code import njit
from tilegrad.kernels.cpu.rows import row
from tilegrad.kernels.cpu.scalar_math import sigmoid, smaller, tanh
from tilegrad.kernels.cpu.tile import ROWS, call_tiles

ROWS_OF_BLOCK = 96  # of the batch that go through the steps together, at most
MOST_ROWS = max(ROWS.values())
TABLE = ROWS_OF_BLOCK + MOST_ROWS

_ZERO = np.float32(0)


class Call(NamedTuple):
    """The numbers of one call, which kernels get as an array of int64."""

    width: int  # H
    wide: int  # H up to a whole number of vectors
    has_dy: int = 0
    relu: int = 0


CALL = np.dtype([(name, np.int64) for name in Call._fields])


@njit(nogil=True)
def rows_here(steps, t, begin, most):
    """How many of the rows begin to begin + most step t has."""
    return smaller(steps[t, 1] - begin, most)


@njit(nogil=True)
def prepare(walks, at, rows, y_row, x_row):
    """Make walks and tables those of so many rows, that lie so far apart in what is written and in what is read."""
    for i in range(len(walks)):
        walks[i].rows = walks[i].total_rows = rows
    for p in range(rows + MOST_ROWS):  # a tile may begin at any row: the last one is there again
        r = smaller(p, rows - 1)
        at[p], at[TABLE + p] = r * y_row, r * x_row


@njit(nogil=True)
def multiply(fixed, walks, at, y, x, w, bias):
    """y = start + x w for the rows that were prepared; start as the walks say."""
    call_tiles(
        fixed[0], walks, y, row(at, 0, TABLE), fixed[1], x, row(at, TABLE, TABLE), fixed[1], w, bias, 0, 1, 0
    )  # fmt: skip


@njit(nogil=True)
def rest(array, first):
    """array[first:]."""
    return row(array, first, array.size - first)


@njit(nogil=True)
def copy(to, source):
    for j in range(to.size):
        store(to, j, load(source, j))


@njit(nogil=True)
def clear(to):
    for j in range(to.size):
        to[j] = _ZERO


@njit(nogil=True)
def copy_parts(to, to_wide, source, source_wide, count, width):
    """`count` parts of `width` numbers each, which lie `wide` apart."""
    for k in range(count):
        copy(row(to, k * to_wide, width), row(source, k * source_wide, width))


@njit(nogil=True)
def sigmoids(a, x):
    """a = sigmoid(a + x), in place."""
    for j in range(a.size):
        a[j] = sigmoid(a[j] + x[j])


@njit(nogil=True)
def tanhs(a, x):
    """a = tanh(a + x), in place."""
    for j in range(a.size):
        a[j] = tanh(a[j] + x[j])


@njit(nogil=True)
def gradient_of_state(dh, dy, has_dy):
    """dh += dy, in place."""
    if has_dy:
        for j in range(dh.size):
            dh[j] += dy[j]
