"""Sums of rows of any length: blocks are summed in float32, in any order, and added up in float64."""

from __future__ import annotations

import numpy as np

from tilegrad.kernels.cpu.code import njit

BLOCK = 1 << 10  # numbers
REASSOC = {"reassoc"}  # for loops that write no array
_ZERO = np.float32(0)


@njit(nogil=True, fastmath=REASSOC)
def total(x):
    summed = 0.0
    for first in range(0, x.size, BLOCK):
        block, part = x[first : first + BLOCK], _ZERO
        for j in range(block.size):
            part += block[j]
        summed += part
    return summed


@njit(nogil=True, fastmath=REASSOC)
def moments(x, m):
    """The sums of x - m and of (x - m)^2."""
    first_moment, second_moment = 0.0, 0.0
    for first in range(0, x.size, BLOCK):
        block, part, square = x[first : first + BLOCK], _ZERO, _ZERO
        for j in range(block.size):
            d = block[j] - m
            part += d
            square += d * d
        first_moment += part
        second_moment += square
    return first_moment, second_moment
