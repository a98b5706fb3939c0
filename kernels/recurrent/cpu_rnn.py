"""A plain recurrent layer and its gradient on the CPU, compiled: recurrent/reference.py's formulas."""

from __future__ import annotations

import numpy as np

from tilegrad.kernels.cpu.apart import load, store
from tilegrad.kernels.cpu.code import njit
from tilegrad.kernels.cpu.rows import row
from tilegrad.kernels.cpu.scalar_math import CONTRACT, smaller
from tilegrad.kernels.cpu.team import share
from tilegrad.kernels.recurrent.cpu_frame import (
    ROWS_OF_BLOCK,
    clear,
    copy,
    gradient_of_state,
    multiply,
    prepare,
    rows_here,
    tanhs,
)

_ONE, _ZERO = np.float32(1), np.float32(0)


def floats(wide: int, width: int) -> int:
    """Floats of scratch memory that a piece takes: h and the sums, or dh and what they are made of."""
    return ROWS_OF_BLOCK * wide * 2


@njit(nogil=True)
def _relus(a, x):
    """a = max(a + x, 0), in place; NaN stays."""
    for j in range(a.size):
        total = a[j] + x[j]
        a[j] = _ZERO if total <= _ZERO else total


@njit(nogil=True, cache=True, error_model="numpy")
def forward(x, w, h0, y, h, steps, calls, scratch, walks, at, tiles_at, one_run, begin, stop, part, team):
    """Rows begin to stop of the batch, through all steps.

    x, h0, y, h   float32, as recurrent.reference.rnn has them, their memory as one dimension
    w             float32, w^T (H, wide) in panels
    steps         int64 (T, 4), recurrent.reference.Step
    scratch, walks, at  memory, of which piece `part` takes row `part`
    tiles_at, one_run   those of cpu/tile.py
    """
    if team:
        share(begin, stop, part, team)
        return
    call, fixed = calls[0], (tiles_at, one_run)
    width, wide = call.width, call.wide
    work, walk, table = scratch[part], walks[part], at[part]
    block = ROWS_OF_BLOCK * wide
    states, sums = row(work, 0, block), row(work, block, block)
    for first in range(begin, stop, ROWS_OF_BLOCK):
        most = smaller(stop - first, ROWS_OF_BLOCK)
        for r in range(most):
            copy(row(states, r * wide, width), row(h0, (first + r) * width, width))
        ready = 0
        for t in range(len(steps)):
            n = rows_here(steps, t, first, most)
            if n <= 0:
                continue
            if n != ready:
                prepare(walk, table, n, wide, wide)
                ready = n
            at_row = steps[t, 0] + first
            multiply(fixed, walk, table, sums, states, w, w)
            for r in range(n):
                a, given = row(sums, r * wide, width), row(x, (at_row + r) * width, width)
                if call.relu:
                    _relus(a, given)
                else:
                    tanhs(a, given)
                copy(row(states, r * wide, width), a)
                copy(row(y, (at_row + r) * width, width), a)
        for r in range(most):
            copy(row(h, (first + r) * width, width), row(states, r * wide, width))


@njit(nogil=True, fastmath=CONTRACT)
def _slopes(dh, y, dx, factors):
    """dx = factors = dh (1 - y^2)."""
    for j in range(dx.size):
        out = load(y, j)
        d = load(dh, j) * ((_ONE - out) * (_ONE + out))
        store(dx, j, d)
        store(factors, j, d)


@njit(nogil=True)
def _where_positive(dh, y, dx, factors):
    """dx = factors = dh where y > 0."""
    for j in range(dx.size):
        d = _ZERO if load(y, j) <= _ZERO else load(dh, j)
        store(dx, j, d)
        store(factors, j, d)


@njit(nogil=True, cache=True, error_model="numpy")
def backward(dy, w, y, dx, dh, steps, calls, scratch, walks, at, tiles_at, one_run, begin, stop, part, team):
    """Rows begin to stop of the batch, through all steps from the last one that the layer took to its first.

    dy, y, dx  float32, as recurrent.reference.rnn_grad has them, their memory as one dimension
    dh  that of the last state, which becomes that of the first one
    w   float32 (wide, wide)
    """
    if team:
        share(begin, stop, part, team)
        return
    call, fixed = calls[0], (tiles_at, one_run)
    width, wide = call.width, call.wide
    work, walk, table = scratch[part], walks[part], at[part]
    block = ROWS_OF_BLOCK * wide
    states, factors = row(work, 0, block), row(work, block, block)
    for first in range(begin, stop, ROWS_OF_BLOCK):
        most = smaller(stop - first, ROWS_OF_BLOCK)
        clear(row(factors, 0, most * wide))
        for r in range(most):
            copy(row(states, r * wide, width), row(dh, (first + r) * width, width))
        ready = 0
        for t in range(len(steps) - 1, -1, -1):
            n = rows_here(steps, t, first, most)
            if n <= 0:
                continue
            if n != ready:
                prepare(walk, table, n, wide, wide)
                ready = n
            at_row = steps[t, 0] + first
            for r in range(n):
                state, out = row(states, r * wide, width), row(y, (at_row + r) * width, width)
                d, a = row(dx, (at_row + r) * width, width), row(factors, r * wide, width)
                gradient_of_state(state, row(dy, (at_row + r) * width * call.has_dy, width), call.has_dy)
                if call.relu:
                    _where_positive(state, out, d, a)
                else:
                    _slopes(state, out, d, a)
            multiply(fixed, walk, table, states, factors, w, w)
        for r in range(most):
            copy(row(dh, (first + r) * width, width), row(states, r * wide, width))
