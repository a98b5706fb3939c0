"""Softmax and its logarithm along one axis, with their gradients, on a GPU, in Numba-CUDA (softmax/reference.py).

The array is seen as (outer, inner, n): n is the axis, the axes that vary more slowly in memory are merged into `outer`,
those that vary faster into `inner`. A block takes some rows. The *lanes* of a row stride over its columns. A tree in
shared memory joins their partial results:

    softmax of the innermost axis: lanes along x        of another axis: rows along x, so that a warp reads one line

      column  0 1 2 ... L-1 | 0 1 2 ... L-1 | ...         column   row 0 row 1 row 2 ... row 31
      row 0   lanes of y=0  | again, 4 loads              0        lane 0, x = 0 1 2 ... 31
      row 1   lanes of y=1  | in flight at once           1        lane 1
       ...                                                 ...      ...  L lanes, then again

    tree over 8 lanes:  0 1 2 3 4 5 6 7  ->  0+4 1+5 2+6 3+7  ->  0+4+2+6 1+5+3+7  ->  the sum, which every lane reads

A forward walks its row twice: once for the maximum and the sum of exponentials, kept online by each lane (Milakov &
Gimelshein 2018, "Online normalizer calculation for softmax"), once for the result. A gradient does the same with a sum.

Arrays of any strides are read in place if all axes but one merge into two; others are copied first, by reshape. The
result has its argument's memory order. float16 and float32, computed in float32.

Traffic: a forward reads and writes each element once, a gradient reads two arrays and writes one, as long as the second
walk finds its rows in a cache. Six blocks of the forward fit on an SM (40 registers a thread), so that 132 SMs walk
some 800 rows of 4096 columns at a time: 13 MB of float32, in an L2 of 50 MB. There copy bandwidth is the ceiling. Much
longer rows are read twice from memory, so that 2/3 of copy bandwidth is the ceiling (a gradient: 3/5). Narrow rows are
bound by the barriers of the trees. softmax/gpu_triton.py keeps rows of up to 32k columns in registers and reads them
once.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numpy import float32, int64

from tilegrad.kernels.device.dense import empty_like
from tilegrad.kernels.launch.numba_dtypes import only_served
from tilegrad.kernels.launch.numba_kernel import Axes, Kernel, kernel
from tilegrad.kernels.launch.numba_target import SIMULATED, cuda, device
from tilegrad.kernels.launch.numba_trees import larger, tree_max, tree_sum
from tilegrad.kernels.sizes import cdiv, next_power_of_2
from tilegrad.kernels.softmax.reference import check_softmax

THREADS = 8 if SIMULATED else 256  # of a block, at most: the lanes of all its rows
EACH = 4  # columns that a lane has in flight
_LINE = 4 if SIMULATED else 32  # rows side by side in memory

MINUS_INF = float32(-np.inf)
_ZERO, _ONE = float32(0), float32(1)


def tile(rows: int, columns: int, across: bool) -> tuple[int, int]:
    """(lanes of a row, rows) of a block, powers of two.

    across   whether neighbours in memory are neighbouring rows, not columns
    """
    lanes = min(next_power_of_2(cdiv(columns, EACH)), THREADS)
    if across:
        lanes = min(lanes, THREADS // min(_LINE, next_power_of_2(rows)))
    return lanes, min(THREADS // lanes, next_power_of_2(rows))


def block_of(lanes: int, rows: int, across: bool) -> Axes:
    """The block of threads for such a tile: threads along x read neighbours in memory."""
    return (rows, lanes) if across else (lanes, rows)


# --- where a thread stands: (lane, lanes of the row, threads from lane to lane, row)


@device
def along():
    """The lanes of a row are neighbours in memory."""
    row = int64(cuda.blockIdx.x) * cuda.blockDim.y + cuda.threadIdx.y
    return int64(cuda.threadIdx.x), int64(cuda.blockDim.x), int64(1), row


@device
def across():
    """The rows of a lane are neighbours in memory."""
    row = int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
    return int64(cuda.threadIdx.y), int64(cuda.blockDim.y), int64(cuda.blockDim.x), row


# --- four columns of a row, `lanes` apart


@device
def load(x, outer, inner, j, lanes, end, beyond):
    """Columns j, j + lanes, ... of a row in float32; `beyond` from column `end` on."""
    k1 = j + lanes
    k2 = k1 + lanes
    k3 = k2 + lanes
    a = float32(x[outer, inner, j]) if j < end else beyond
    b = float32(x[outer, inner, k1]) if k1 < end else beyond
    c = float32(x[outer, inner, k2]) if k2 < end else beyond
    d = float32(x[outer, inner, k3]) if k3 < end else beyond
    return a, b, c, d


@device
def store(y, outer, inner, j, lanes, end, a, b, c, d):
    """Write a, b, c, d to columns j, j + lanes, ... of y that are below `end`."""
    k1 = j + lanes
    k2 = k1 + lanes
    k3 = k2 + lanes
    if j < end:
        y[outer, inner, j] = a
    if k1 < end:
        y[outer, inner, k1] = b
    if k2 < end:
        y[outer, inner, k2] = c
    if k3 < end:
        y[outer, inner, k3] = d


@device
def shift_of(m):
    """What is subtracted from logits whose maximum so far is m: 0 while all were -inf, so that none becomes NaN."""
    return _ZERO if m == MINUS_INF else m


@device
def online(m, s, a, b, c, d):
    """(m, s) after four more logits; m is the maximum so far, s the sum of exp(x - m). A logit of -inf adds nothing."""
    before = m
    m = larger(m, larger(larger(a, b), larger(c, d)))
    shift = shift_of(m)
    more = (math.exp(a - shift) + math.exp(b - shift)) + (math.exp(c - shift) + math.exp(d - shift))
    return m, s * math.exp(before - shift) + more


# --- the formulas


@device
def _probability(shifted, total):
    return math.exp(shifted) * (_ONE / total)


@device
def _log_probability(shifted, total):
    return shifted - math.log(total)


@device
def _term(dy, y):
    """What softmax_grad sums over a row."""
    return dy * y


@device
def _log_term(dy, y):
    return dy


@device
def _slope(dy, y, total):
    """The gradient, from the sum of those terms."""
    return y * (dy - total)


@device
def _log_slope(dy, y, total):
    return dy - math.exp(y) * total


@functools.cache
def _forward_kernel(place: Any, result: Any) -> Kernel:
    @kernel
    def _softmax_kernel(x, y):
        """x, y: (outer, inner, n)."""
        shared = cuda.shared.array(THREADS, float32)
        lane, lanes, step, row = place()
        outer, inner = row // x.shape[1], row % x.shape[1]
        end = x.shape[2] if outer < x.shape[0] else 0  # a row that does not exist still has to meet the barriers

        m, s = MINUS_INF, _ZERO
        for j in range(lane, end, EACH * lanes):
            a, b, c, d = load(x, outer, inner, j, lanes, end, MINUS_INF)
            m, s = online(m, s, a, b, c, d)
        most = tree_max(m, shared, lane, lanes, step)
        total = tree_sum(s * math.exp(m - most), shared, lane, lanes, step)  # NaN where there are only -inf

        for j in range(lane, end, EACH * lanes):
            a, b, c, d = load(x, outer, inner, j, lanes, end, most)
            a, b, c, d = a - most, b - most, c - most, d - most
            a, b, c, d = result(a, total), result(b, total), result(c, total), result(d, total)
            store(y, outer, inner, j, lanes, end, a, b, c, d)

    return _softmax_kernel


@functools.cache
def _backward_kernel(place: Any, term: Any, slope: Any) -> Kernel:
    @kernel
    def _softmax_grad_kernel(dy, y, dx):
        """dy, y, dx: (outer, inner, n)."""
        shared = cuda.shared.array(THREADS, float32)
        lane, lanes, step, row = place()
        outer, inner = row // y.shape[1], row % y.shape[1]
        end = y.shape[2] if outer < y.shape[0] else 0

        s = _ZERO
        for j in range(lane, end, EACH * lanes):
            a, b, c, d = load(dy, outer, inner, j, lanes, end, _ZERO)
            p, q, r, t = load(y, outer, inner, j, lanes, end, _ZERO)
            s += (term(a, p) + term(b, q)) + (term(c, r) + term(d, t))
        total = tree_sum(s, shared, lane, lanes, step)

        for j in range(lane, end, EACH * lanes):
            a, b, c, d = load(dy, outer, inner, j, lanes, end, _ZERO)
            p, q, r, t = load(y, outer, inner, j, lanes, end, _ZERO)
            a, b, c, d = slope(a, p, total), slope(b, q, total), slope(c, r, total), slope(d, t, total)
            store(dx, outer, inner, j, lanes, end, a, b, c, d)

    return _softmax_grad_kernel


def softmax(x: Any, axis: int = -1) -> Any:
    """y_i = exp(x_i - m) / sum_j exp(x_j - m), m = max_j x_j."""
    return _forward("softmax", _probability, x, axis)


def softmax_grad(dy: Any, y: Any, axis: int = -1) -> Any:
    """dx_i = y_i (dy_i - sum_j dy_j y_j), from softmax's result."""
    return _backward("softmax_grad", _term, _slope, dy, y, axis)


def log_softmax(x: Any, axis: int = -1) -> Any:
    """y_i = (x_i - m) - log sum_j exp(x_j - m), m = max_j x_j."""
    return _forward("log_softmax", _log_probability, x, axis)


def log_softmax_grad(dy: Any, y: Any, axis: int = -1) -> Any:
    """dx_i = dy_i - exp(y_i) sum_j dy_j, from log_softmax's result."""
    return _backward("log_softmax_grad", _log_term, _log_slope, dy, y, axis)


def _forward(op: str, result: Any, x: Any, axis: int) -> Any:
    only_served(op, check_softmax(op, axis, x=x))
    y = empty_like(x)
    place, grid, block, (x, rows_of_y) = _plan(axis, x, y)
    _forward_kernel(place, result)(grid, block, x, rows_of_y)
    return y


def _backward(op: str, term: Any, slope: Any, dy: Any, y: Any, axis: int) -> Any:
    only_served(op, check_softmax(op, axis, dy=dy, y=y))
    dx = empty_like(y)
    place, grid, block, (dy, y, rows_of_dx) = _plan(axis, dy, y, dx)
    _backward_kernel(place, term, slope)(grid, block, dy, y, rows_of_dx)
    return dx


def _plan(axis: int, *arrays: Any) -> tuple[Any, Axes, Axes, list[Any]]:
    """(place, grid, block, each array as (outer, inner, n)); the last array is dense, so that this is a view."""
    shape, steps = arrays[-1].shape, arrays[-1].strides
    axis %= len(shape)
    others = sorted((i for i in range(len(shape)) if i != axis), key=lambda i: -abs(steps[i]))
    slower = [i for i in others if abs(steps[i]) >= abs(steps[axis])]
    faster = others[len(slower) :]
    sizes = math.prod(shape[i] for i in slower), math.prod(shape[i] for i in faster), shape[axis]
    views = [x.transpose(*slower, *faster, axis).reshape(sizes) for x in arrays]
    rows = sizes[0] * sizes[1]
    is_across = 1 < sizes[2] and 1 < sizes[1]
    lanes, height = tile(sizes[1] if is_across else rows, sizes[2], is_across)
    grid = (cdiv(rows, height) if sizes[2] else 0,)
    return across if is_across else along, grid, block_of(lanes, height, is_across), views
