"""Layer and RMS normalisation and their gradients on a GPU, in Numba-CUDA (layer_norm/reference.py).

x is seen as (1, rows, n), as in softmax/gpu_numba.py: a block takes some rows, the lanes of a row stride over its
columns, four loads in flight, and a tree in shared memory joins what they have summed. A forward walks its row three
times: for a mean, for the moments about it, for the result. The gradient of x walks it twice. Rows are found in a cache
after the first walk.

The gradients of weight and bias are sums over rows: a thread takes a column and a *part* of the rows, one row after the
other, so that a warp reads one line of memory. A second launch adds the parts (sum/gpu_numba.py). The parts depend on
the shape alone: no atomics, the same bits in every run.

Where x or dy are not rows with one stride, they are copied first, by reshape. float16 and float32, computed in float32.

Traffic: the forward reads x and writes y; with a residual it reads that too and writes the sum, in a walk of its own
before the others. The gradient reads dy and x twice, once for each kernel, and writes dx; where there is a ds, it reads
that. layer_norm/gpu_triton.py reads all of them once.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numpy import float32, int64

from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch.numba_dtypes import only_served
from tilegrad.kernels.launch.numba_kernel import Kernel, kernel
from tilegrad.kernels.launch.numba_target import SIMULATED, cuda, device
from tilegrad.kernels.layer_norm.reference import Rows, check_norm, check_norm_grad
from tilegrad.kernels.sizes import cdiv, next_power_of_2
from tilegrad.kernels.softmax.gpu_numba import EACH, THREADS, along, block_of, load, store, tile, tree_sum
from tilegrad.kernels.sum.gpu_numba import add_parts

PARTS = 4 if SIMULATED else 128  # of the rows, at most
LEAST_ROWS = 4 if SIMULATED else 32  # of a part

_ZERO, _ONE = float32(0), float32(1)


@device
def _moments(x, row, lane, lanes, end, m):
    """A lane's sums of x - m and of its square."""
    total, square = _ZERO, _ZERO
    for j in range(lane, end, EACH * lanes):
        a, b, c, d = load(x, 0, row, j, lanes, end, m)
        a, b, c, d = a - m, b - m, c - m, d - m
        total += (a + b) + (c + d)
        square += (a * a + b * b) + (c * c + d * d)
    return total, square


@device
def _affine(d, weight, bias, j, end):
    return d * weight[j] + bias[j] if j < end else d


@device
def _join(x, residual, joined, row, lane, lanes, end):
    """joined = x + residual in a lane's columns, which are those that it reads again."""
    for j in range(lane, end, EACH * lanes):
        a, b, c, d = load(x, 0, row, j, lanes, end, _ZERO)
        p, q, s, t = load(residual, 0, row, j, lanes, end, _ZERO)
        store(joined, 0, row, j, lanes, end, a + p, b + q, c + s, d + t)


@functools.cache
def _layer_norm_kernel(centred: bool, joins: bool) -> Kernel:
    @kernel
    def _layer_norm_kernel(x, residual, weight, bias, joined, y, mean, rstd, eps):
        """x, residual, joined, y: (1, rows, n); weight, bias: (n,); mean, rstd: (rows,).

        mean is written where rows are centred. Where the rows of the sum are normalised, joined is written first, and
        read as x; else x and joined are one.
        """
        shared = cuda.shared.array(THREADS, float32)
        lane, lanes, step, row = along()
        end = x.shape[2] if row < x.shape[1] else 0  # a row that does not exist still has to meet the barriers
        n = float32(x.shape[2])
        m = _ZERO
        if joins:
            _join(x, residual, joined, row, lane, lanes, end)
        if centred:
            total, _ = _moments(joined, row, lane, lanes, end, _ZERO)
            m = tree_sum(total, shared, lane, lanes, step) / n
        total, square = _moments(joined, row, lane, lanes, end, m)
        rest = tree_sum(total, shared, lane, lanes, step) / n
        square = tree_sum(square, shared, lane, lanes, step) / n
        if centred:
            square -= rest * rest
        else:
            rest = _ZERO
        r = _ONE / math.sqrt(square + eps)
        for j in range(lane, end, EACH * lanes):
            a, b, c, d = load(joined, 0, row, j, lanes, end, m)
            a, b, c, d = ((a - m) - rest) * r, ((b - m) - rest) * r, ((c - m) - rest) * r, ((d - m) - rest) * r
            a, b = _affine(a, weight, bias, j, end), _affine(b, weight, bias, j + lanes, end)
            c, d = _affine(c, weight, bias, j + 2 * lanes, end), _affine(d, weight, bias, j + 3 * lanes, end)
            store(y, 0, row, j, lanes, end, a, b, c, d)
        if lane == 0 and row < x.shape[1]:
            rstd[row] = r
            if centred:
                mean[row] = m + rest

    return _layer_norm_kernel


@device
def _weighed(dy, weight, j, end):
    return dy * weight[j] if j < end else _ZERO


@device
def _weighed_four(dy, weight, row, j, lanes, end):
    """g = dy weight of four columns."""
    a, b, c, d = load(dy, 0, row, j, lanes, end, _ZERO)
    a, b = _weighed(a, weight, j, end), _weighed(b, weight, j + lanes, end)
    c, d = _weighed(c, weight, j + 2 * lanes, end), _weighed(d, weight, j + 3 * lanes, end)
    return a, b, c, d


@functools.cache
def _layer_norm_grad_kernel(centred: bool, joins: bool) -> Kernel:
    @kernel
    def _layer_norm_grad_kernel(dy, x, ds, mean, rstd, weight, dx):
        """dy, x, ds, dx: (1, rows, n); mean, rstd: (rows,); weight: (n,).

        mean is read where rows were centred, ds where it is added to dx.
        """
        shared = cuda.shared.array(THREADS, float32)
        lane, lanes, step, row = along()
        end = x.shape[2] if row < x.shape[1] else 0
        n = float32(x.shape[2])
        m, r = _ZERO, _ZERO
        if row < x.shape[1]:
            r = rstd[row]
            if centred:
                m = mean[row]
        total, product = _ZERO, _ZERO
        for j in range(lane, end, EACH * lanes):
            a, b, c, d = _weighed_four(dy, weight, row, j, lanes, end)
            p, q, s, t = load(x, 0, row, j, lanes, end, m)
            total += (a + b) + (c + d)
            product += (a * ((p - m) * r) + b * ((q - m) * r)) + (c * ((s - m) * r) + d * ((t - m) * r))
        c1 = tree_sum(total, shared, lane, lanes, step) / n if centred else _ZERO
        c2 = tree_sum(product, shared, lane, lanes, step) / n
        for j in range(lane, end, EACH * lanes):
            a, b, c, d = _weighed_four(dy, weight, row, j, lanes, end)
            p, q, s, t = load(x, 0, row, j, lanes, end, m)
            a, b = (a - c1 - (p - m) * r * c2) * r, (b - c1 - (q - m) * r * c2) * r
            c, d = (c - c1 - (s - m) * r * c2) * r, (d - c1 - (t - m) * r * c2) * r
            if joins:
                p, q, s, t = load(ds, 0, row, j, lanes, end, _ZERO)
                a, b, c, d = a + p, b + q, c + s, d + t
            store(dx, 0, row, j, lanes, end, a, b, c, d)

    return _layer_norm_grad_kernel


@functools.cache
def _layer_norm_grad_affine_kernel(centred: bool) -> Kernel:
    @kernel
    def _layer_norm_grad_affine_kernel(dy, x, mean, rstd, dweight, dbias, of_a_part):
        """dy, x: (1, rows, n); mean, rstd: (rows,); dweight, dbias: (parts, n). Blocks: (columns, parts)."""
        column = cuda.grid(1)
        if column >= x.shape[2]:
            return
        part = int64(cuda.blockIdx.y)
        dw, db = _ZERO, _ZERO
        for row in range(part * of_a_part, min((part + 1) * of_a_part, x.shape[1])):
            g = float32(dy[0, row, column])
            m = mean[row] if centred else _ZERO
            dw += g * ((float32(x[0, row, column]) - m) * rstd[row])
            db += g
        dweight[part, column] = dw
        dbias[part, column] = db

    return _layer_norm_grad_affine_kernel


def layer_norm(
    x: Any,
    ndim: int,
    weight: Any | None = None,
    bias: Any | None = None,
    eps: float = 1e-5,
    residual: Any | None = None,
) -> tuple[Any, ...]:
    """layer_norm.reference.layer_norm."""
    s = check_norm("layer_norm", x, ndim, weight, bias, eps, residual)
    only_served("layer_norm", s.dtype)
    return _normalized(s, x, residual, weight, bias, eps, True)


def rms_norm(
    x: Any, ndim: int, weight: Any | None = None, eps: float = 1e-5, residual: Any | None = None
) -> tuple[Any, ...]:
    """layer_norm.reference.rms_norm."""
    s = check_norm("rms_norm", x, ndim, weight, None, eps, residual)
    only_served("rms_norm", s.dtype)
    y, _, rstd, *joined = _normalized(s, x, residual, weight, None, eps, False)
    return y, rstd, *joined


def layer_norm_grad(
    dy: Any,
    x: Any,
    mean: Any,
    rstd: Any,
    weight: Any | None = None,
    to_weight: bool = False,
    to_bias: bool = False,
    ds: Any | None = None,
) -> tuple[Any, ...]:
    """layer_norm.reference.layer_norm_grad."""
    s = check_norm_grad("layer_norm_grad", dy, x, mean, rstd, weight, ds)
    only_served("layer_norm_grad", s.dtype)
    return _gradients(s, dy, x, mean, rstd, weight, to_weight, to_bias, ds)


def rms_norm_grad(
    dy: Any, x: Any, rstd: Any, weight: Any | None = None, to_weight: bool = False, ds: Any | None = None
) -> tuple[Any, ...]:
    """layer_norm.reference.rms_norm_grad."""
    s = check_norm_grad("rms_norm_grad", dy, x, None, rstd, weight, ds)
    only_served("rms_norm_grad", s.dtype)
    return _gradients(s, dy, x, None, rstd, weight, to_weight, False, ds)


def _normalized(
    s: Rows, x: Any, residual: Any | None, weight: Any, bias: Any, eps: float, centred: bool
) -> tuple[Any, ...]:
    """y, mean, rstd, and x + residual where there is one."""
    xp = gpu.xp()
    y, mean, rstd = xp.empty(x.shape, s.dtype), xp.empty(s.count, np.float32), xp.empty(s.count, np.float32)
    if not s.n:
        mean, rstd = xp.full(s.count, np.nan, np.float32), xp.full(s.count, np.nan, np.float32)
    joined = [] if residual is None else [xp.empty(x.shape, s.dtype)]
    grid, block = _blocks(s)
    x = _rows(s, x)
    both = (_rows(s, residual), _rows(s, joined[0])) if joined else (x, x)
    arrays = x, both[0], _along(s, weight, 1), _along(s, bias, 0), both[1], _rows(s, y)
    _layer_norm_kernel(centred, bool(joined))(grid, block, *arrays, mean, rstd, float(eps))
    return y, mean.reshape(s.lead), rstd.reshape(s.lead), *joined


def _gradients(
    s: Rows,
    dy: Any,
    x: Any,
    mean: Any | None,
    rstd: Any,
    weight: Any,
    to_weight: bool,
    to_bias: bool,
    ds: Any | None,
) -> tuple[Any, ...]:
    """mean is None where the rows were not centred."""
    xp = gpu.xp()
    dx, centred = xp.empty(x.shape, s.dtype), mean is not None
    grid, block = _blocks(s)
    saved = (rstd if mean is None else mean).reshape(s.count), rstd.reshape(s.count)
    dy, x = _rows(s, dy), _rows(s, x)
    arrays = dy, x, dy if ds is None else _rows(s, ds), *saved, _along(s, weight, 1), _rows(s, dx)
    _layer_norm_grad_kernel(centred, ds is not None)(grid, block, *arrays)
    if not (to_weight or to_bias):
        return (dx,)
    of_a_part = max(LEAST_ROWS, cdiv(s.count, PARTS))
    parts = cdiv(s.count, of_a_part)
    sums = [xp.empty((parts, s.n), np.float32) for _ in range(2)]
    threads = min(THREADS, next_power_of_2(s.n))
    grid = cdiv(s.n, threads), parts
    _layer_norm_grad_affine_kernel(centred)(grid, (threads,), dy, x, *saved, *sums, of_a_part)
    asked = [part for part, wanted in zip(sums, (to_weight, to_bias), strict=True) if wanted]
    return dx, *[add_parts(part, s.dtype).reshape(s.shape) for part in asked]


def _blocks(s: Rows) -> tuple[tuple[int], tuple[int, ...]]:
    """(grid, block) of kernels that take rows."""
    lanes, height = tile(s.count, s.n, False)
    return (cdiv(s.count, height) if s.n else 0,), block_of(lanes, height, False)


def _rows(s: Rows, x: Any) -> Any:
    return x.reshape(1, s.count, s.n)


def _along(s: Rows, a: Any | None, otherwise: int) -> Any:
    """weight or bias as one row; a row of ones or zeros where there is none."""
    return gpu.xp().full(s.n, otherwise, s.dtype) if a is None else a.reshape(s.n)
