"""An LSTM layer and its gradient on the CPU, compiled: recurrent/reference.py's formulas, in cpu_frame.py's frame."""

from __future__ import annotations

import numpy as np

from tilegrad.kernels.cpu.apart import load, store
from tilegrad.kernels.cpu.code import njit
from tilegrad.kernels.cpu.rows import row
from tilegrad.kernels.cpu.scalar_math import CONTRACT, smaller, tanh
from tilegrad.kernels.cpu.team import share
from tilegrad.kernels.recurrent.cpu_frame import (
    ROWS_OF_BLOCK,
    clear,
    copy,
    copy_parts,
    gradient_of_state,
    multiply,
    prepare,
    rest,
    rows_here,
    sigmoids,
    tanhs,
)

_ONE = np.float32(1)


def floats(wide: int, width: int) -> int:
    """Floats of scratch memory that a piece of the forward takes: h, c, and sums that are not made in place."""
    return ROWS_OF_BLOCK * wide * (2 if wide == width else 6)


def floats_grad(wide: int, width: int) -> int:
    """The same of the gradient: dh, dc, dc', and sums that are not made in place."""
    return ROWS_OF_BLOCK * wide * (2 if wide == width else 6) + wide


@njit(nogil=True, fastmath=CONTRACT)
def _states(i, f, g, o, c, cells, y):
    """cells = f c + i g,  y = o tanh(cells)."""
    for j in range(y.size):
        new = load(f, j) * load(c, j) + load(i, j) * load(g, j)
        store(cells, j, new)
        store(y, j, load(o, j) * tanh(new))


@njit(nogil=True, cache=True, error_model="numpy")
def forward(
    x, w, h0, c0, y, h, c, gates, cells, steps, calls, scratch, walks, at, tiles_at, one_run, begin, stop, part, team
):  # fmt: skip
    """Rows begin to stop of the batch, through all steps.

    x, h0, c0, y, h, c, gates, cells  float32, as recurrent.reference.lstm has them, their memory as one dimension
    w             float32, w^T (H, 4 * wide) in panels
    steps         int64 (T, 4), recurrent.reference.Step
    scratch, walks, at  memory, of which piece `part` takes row `part`
    tiles_at, one_run   those of cpu/tile.py
    """
    if team:
        share(begin, stop, part, team)
        return
    call, fixed = calls[0], (tiles_at, one_run)
    width, wide = call.width, call.wide
    across = 4 * wide
    work, walk, table = scratch[part], walks[part], at[part]
    block = ROWS_OF_BLOCK * wide
    states, inner = row(work, 0, block), row(work, block, block)
    direct = wide == width
    for first in range(begin, stop, ROWS_OF_BLOCK):
        most = smaller(stop - first, ROWS_OF_BLOCK)
        for r in range(most):
            copy(row(states, r * wide, width), row(h0, (first + r) * width, width))
            copy(row(inner, r * wide, width), row(c0, (first + r) * width, width))
        ready = 0
        for t in range(len(steps)):
            n = rows_here(steps, t, first, most)
            if n <= 0:
                continue
            if n != ready:
                prepare(walk, table, n, across, wide)
                ready = n
            at_row = steps[t, 0] + first
            sums = rest(gates, at_row * across) if direct else rest(work, 2 * block)
            multiply(fixed, walk, table, sums, states, w, w)
            for r in range(n):
                a, given = row(sums, r * across, across), row(x, (at_row + r) * 4 * width, 4 * width)
                i, f = row(a, 0, width), row(a, wide, width)
                g, o = row(a, 2 * wide, width), row(a, 3 * wide, width)
                sigmoids(i, row(given, 0, width))
                sigmoids(f, row(given, width, width))
                tanhs(g, row(given, 2 * width, width))
                sigmoids(o, row(given, 3 * width, width))
                state, cell = row(states, r * wide, width), row(inner, r * wide, width)
                new, out = row(cells, (at_row + r) * width, width), row(y, (at_row + r) * width, width)
                _states(i, f, g, o, cell, new, out)
                copy(state, out)
                copy(cell, new)
                if not direct:
                    copy_parts(rest(gates, (at_row + r) * 4 * width), width, a, wide, 4, width)
        for r in range(most):
            copy(row(h, (first + r) * width, width), row(states, r * wide, width))
            copy(row(c, (first + r) * width, width), row(inner, r * wide, width))


@njit(nogil=True, fastmath=CONTRACT)
def _to_output(dh, dc, o, cells, do, joined):
    """do = dh tanh(c) o (1 - o),  joined = dc + dh o (1 - tanh(c)^2)."""
    for j in range(do.size):
        t, gate, dy = tanh(load(cells, j)), load(o, j), load(dh, j)
        store(do, j, dy * t * gate * (_ONE - gate))
        store(joined, j, load(dc, j) + dy * gate * ((_ONE - t) * (_ONE + t)))


@njit(nogil=True, fastmath=CONTRACT)
def _to_gates(joined, i, f, g, c, di, df, dg, dc):
    """di = dc' g i (1 - i),  df = dc' c f (1 - f),  dg = dc' i (1 - g^2),  dc = dc' f."""
    for j in range(di.size):
        d, a, b, new = load(joined, j), load(i, j), load(f, j), load(g, j)
        store(di, j, d * new * (a * (_ONE - a)))
        store(df, j, d * load(c, j) * (b * (_ONE - b)))
        store(dg, j, d * a * ((_ONE - new) * (_ONE + new)))
        store(dc, j, d * b)


@njit(nogil=True, cache=True, error_model="numpy")
def backward(
    dy, w, c0, gates, cells, dx, dh, dc, steps, calls, scratch, walks, at, tiles_at, one_run, begin, stop, part, team
):  # fmt: skip
    """Rows begin to stop of the batch, through all steps from the last one that the layer took to its first.

    dy, c0, gates, cells, dx  float32, as recurrent.reference.lstm_grad has them, their memory as one dimension
    dh, dc   those of the last states, which become those of the first ones
    w        float32 (4 * wide, wide)
    """
    if team:
        share(begin, stop, part, team)
        return
    call, fixed = calls[0], (tiles_at, one_run)
    width, wide = call.width, call.wide
    across = 4 * wide
    work, walk, table = scratch[part], walks[part], at[part]
    block = ROWS_OF_BLOCK * wide
    states, inner, joined = row(work, 0, block), row(work, block, block), row(work, 2 * block, width)
    direct = wide == width
    for first in range(begin, stop, ROWS_OF_BLOCK):
        most = smaller(stop - first, ROWS_OF_BLOCK)
        for r in range(most):
            copy(row(states, r * wide, width), row(dh, (first + r) * width, width))
            copy(row(inner, r * wide, width), row(dc, (first + r) * width, width))
        ready = 0
        for t in range(len(steps) - 1, -1, -1):
            n = rows_here(steps, t, first, most)
            if n <= 0:
                continue
            if n != ready:
                prepare(walk, table, n, wide, across)
                ready = n
            at_row, before, known = steps[t, 0] + first, steps[t, 2] + first, steps[t, 3] - first
            factors = rest(dx, at_row * across) if direct else rest(work, 2 * block + wide)
            if not direct:
                clear(row(factors, 0, n * across))
            for r in range(n):
                d, a = row(factors, r * across, across), row(gates, (at_row + r) * 4 * width, 4 * width)
                i, f, g, o = row(a, 0, width), row(a, width, width), row(a, 2 * width, width), row(a, 3 * width, width)
                new = row(cells, (at_row + r) * width, width)
                old = row(cells, (before + r) * width, width) if r < known else row(c0, (first + r) * width, width)
                state, cell = row(states, r * wide, width), row(inner, r * wide, width)
                gradient_of_state(state, row(dy, (at_row + r) * width * call.has_dy, width), call.has_dy)
                _to_output(state, cell, o, new, row(d, 3 * wide, width), joined)
                _to_gates(
                    joined, i, f, g, old, row(d, 0, width), row(d, wide, width), row(d, 2 * wide, width), cell
                )  # fmt: skip
                if not direct:
                    copy_parts(rest(dx, (at_row + r) * 4 * width), width, d, wide, 4, width)
            multiply(fixed, walk, table, states, factors, w, w)
        for r in range(most):
            copy(row(dh, (first + r) * width, width), row(states, r * wide, width))
            copy(row(dc, (first + r) * width, width), row(inner, r * wide, width))
