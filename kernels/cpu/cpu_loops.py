"""The loops of kernels/cpu/ufuncs.py, over contiguous arrays of one dimension."""

from __future__ import annotations

from tilegrad.kernels.cpu.code import njit
from tilegrad.kernels.cpu.team import share


@njit(nogil=True, cache=True)
def add(a, b, y, begin, stop, part, team):
    if team:
        share(begin, stop, part, team)
        return
    a, b, y = a[begin:stop], b[begin:stop], y[begin:stop]
    for i in range(y.size):
        y[i] = a[i] + b[i]
