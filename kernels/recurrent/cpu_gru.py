"""A GRU layer and its gradient on the CPU, compiled: recurrent/reference.py's formulas, in cpu_frame.py's frame."""

from __future__ import annotations

import numpy as np

from tilegrad.kernels.cpu.apart import load, store
from tilegrad.kernels.cpu.code import njit
from tilegrad.kernels.cpu.rows import row
from tilegrad.kernels.cpu.scalar_math import CONTRACT, sigmoid, smaller, tanh
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
)

_ONE = np.float32(1)


def floats(wide: int, width: int) -> int:
    """Floats of scratch memory that a piece of the forward takes: h and q."""
    return ROWS_OF_BLOCK * wide * 4


def floats_grad(wide: int, width: int) -> int:
    """The same of the gradient: dh, what comes to it from dq, and dq where it is not made in place."""
    return ROWS_OF_BLOCK * wide * (2 if wide == width else 5)


@njit(nogil=True, fastmath=CONTRACT)
def _gates(x, q, gate):
    """gate = sigmoid(x + q)."""
    for j in range(gate.size):
        store(gate, j, sigmoid(load(x, j) + load(q, j)))


@njit(nogil=True, fastmath=CONTRACT)
def _new_state(x, q, r, z, h, new, kept, y):
    """new = tanh(x + r q),  y = new + z (h - new);  kept = q."""
    for j in range(y.size):
        n = tanh(load(x, j) + load(r, j) * load(q, j))
        store(new, j, n)
        store(kept, j, load(q, j))
        store(y, j, n + load(z, j) * (load(h, j) - n))


@njit(nogil=True, cache=True, error_model="numpy")
def forward(
    x, w, bias, h0, y, h, gates, steps, calls, scratch, walks, at, tiles_at, one_run, begin, stop, part, team
):  # fmt: skip
    """Rows begin to stop of the batch, through all steps.

    x, h0, y, h, gates  float32, as recurrent.reference.gru has them, their memory as one dimension
    w, bias       float32, w^T (H, 3 * wide) in panels and b (3 * wide,)
    steps         int64 (T, 4), recurrent.reference.Step
    scratch, walks, at  memory, of which piece `part` takes row `part`
    tiles_at, one_run   those of cpu/tile.py
    """
    if team:
        share(begin, stop, part, team)
        return
    call, fixed = calls[0], (tiles_at, one_run)
    width, wide = call.width, call.wide
    across = 3 * wide
    work, walk, table = scratch[part], walks[part], at[part]
    states, sums = row(work, 0, ROWS_OF_BLOCK * wide), rest(work, ROWS_OF_BLOCK * wide)
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
                prepare(walk, table, n, across, wide)
                ready = n
            multiply(fixed, walk, table, sums, states, w, bias)
            at_row = steps[t, 0] + first
            for i in range(n):
                q, a = row(sums, i * across, across), row(x, (at_row + i) * 3 * width, 3 * width)
                kept = row(gates, (at_row + i) * 4 * width, 4 * width)
                r, z = row(kept, 0, width), row(kept, width, width)
                _gates(row(a, 0, width), row(q, 0, width), r)
                _gates(row(a, width, width), row(q, wide, width), z)
                state, out = row(states, i * wide, width), row(y, (at_row + i) * width, width)
                _new_state(
                    row(a, 2 * width, width), row(q, 2 * wide, width), r, z, state,
                    row(kept, 2 * width, width), row(kept, 3 * width, width), out,
                )  # fmt: skip
                copy(state, out)
        for r in range(most):
            copy(row(h, (first + r) * width, width), row(states, r * wide, width))


@njit(nogil=True, fastmath=CONTRACT)
def _to_gates(dh, r, z, new, q, h, dr, dz, dn, dr_q, dz_q, dn_q):
    """The gradients of both parts of r, z and n, of which those of r and z are alike."""
    for j in range(dr.size):
        d, a, b, n = load(dh, j), load(r, j), load(z, j), load(new, j)
        to_new = d * (_ONE - b) * ((_ONE - n) * (_ONE + n))
        to_z = d * (load(h, j) - n) * (b * (_ONE - b))
        to_r = to_new * load(q, j) * (a * (_ONE - a))
        store(dr, j, to_r)
        store(dr_q, j, to_r)
        store(dz, j, to_z)
        store(dz_q, j, to_z)
        store(dn, j, to_new)
        store(dn_q, j, to_new * a)


@njit(nogil=True, fastmath=CONTRACT)
def _to_state(dh, z, back):
    """dh = dh z + back. The product does not begin with dh z: small terms would be added to a large sum one by one."""
    for j in range(dh.size):
        dh[j] = dh[j] * z[j] + back[j]


@njit(nogil=True, cache=True, error_model="numpy")
def backward(
    dy, w, h0, y, gates, dx, dq, dh, steps, calls, scratch, walks, at, tiles_at, one_run, begin, stop, part, team
):  # fmt: skip
    """Rows begin to stop of the batch, through all steps from the last one that the layer took to its first.

    dy, h0, y, gates, dx, dq  float32, as recurrent.reference.gru_grad has them, their memory as one dimension
    dh  that of the last state, which becomes that of the first one
    w   float32 (3 * wide, wide)
    """
    if team:
        share(begin, stop, part, team)
        return
    call, fixed = calls[0], (tiles_at, one_run)
    width, wide = call.width, call.wide
    across = 3 * wide
    work, walk, table = scratch[part], walks[part], at[part]
    block = ROWS_OF_BLOCK * wide
    states, back = row(work, 0, block), row(work, block, block)
    direct = wide == width
    for first in range(begin, stop, ROWS_OF_BLOCK):
        most = smaller(stop - first, ROWS_OF_BLOCK)
        for r in range(most):
            copy(row(states, r * wide, width), row(dh, (first + r) * width, width))
        ready = 0
        for t in range(len(steps) - 1, -1, -1):
            n = rows_here(steps, t, first, most)
            if n <= 0:
                continue
            if n != ready:
                prepare(walk, table, n, wide, across)
                ready = n
            at_row, before, known = steps[t, 0] + first, steps[t, 2] + first, steps[t, 3] - first
            factors = rest(dq, at_row * across) if direct else rest(work, 2 * block)
            if not direct:
                clear(row(factors, 0, n * across))
            for i in range(n):
                kept, a = row(gates, (at_row + i) * 4 * width, 4 * width), row(factors, i * across, across)
                d = row(dx, (at_row + i) * 3 * width, 3 * width)
                old = row(y, (before + i) * width, width) if i < known else row(h0, (first + i) * width, width)
                state, z = row(states, i * wide, width), row(kept, width, width)
                gradient_of_state(state, row(dy, (at_row + i) * width * call.has_dy, width), call.has_dy)
                _to_gates(
                    state, row(kept, 0, width), z, row(kept, 2 * width, width), row(kept, 3 * width, width), old,
                    row(d, 0, width), row(d, width, width), row(d, 2 * width, width),
                    row(a, 0, width), row(a, wide, width), row(a, 2 * wide, width),
                )  # fmt: skip
                if not direct:
                    copy_parts(rest(dq, (at_row + i) * 3 * width), width, a, wide, 3, width)
            multiply(fixed, walk, table, back, factors, w, w)
            for i in range(n):
                z = row(gates, (at_row + i) * 4 * width + width, width)
                _to_state(row(states, i * wide, width), z, row(back, i * wide, width))
        for r in range(most):
            copy(row(dh, (first + r) * width, width), row(states, r * wide, width))
