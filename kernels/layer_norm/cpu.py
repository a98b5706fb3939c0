"""Layer and RMS normalisation on the CPU, compiled: a row is read from memory once, and then from the cache.

Served here are float32 arrays, and the 16-bit types by way of float32. All else is left to the reference. Rows are
shared out among the threads. Of the gradients of weight and bias each *block* of rows makes a part of its own, and
the parts are added in their order: what the blocks are depends on the shape alone, and so do the bits.

A row is borrowed (cpu/rows.py), and the gradient reads it twice: for two sums, then for dx and what it adds to the
gradients of weight and bias. 1,024 rows of 128 numbers, one core with AVX-512, nanoseconds a row: 60 with slices and a
loop for each of the results, 43 with borrowed rows, 33 with one loop, which reads and writes a third less; PyTorch 38
to 50.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from tilegrad.kernels.cpu import buffers, threads
from tilegrad.kernels.cpu.apart import add_to_one, add_to_other, load, store
from tilegrad.kernels.cpu.code import njit
from tilegrad.kernels.cpu.effects import contiguous, whole
from tilegrad.kernels.cpu.halves import HALVES, in_float32
from tilegrad.kernels.cpu.long_sums import BLOCK, REASSOC, moments, total
from tilegrad.kernels.cpu.rows import row
from tilegrad.kernels.cpu.scalar_math import smaller
from tilegrad.kernels.cpu.team import share
from tilegrad.kernels.layer_norm import reference
from tilegrad.kernels.layer_norm.reference import Array, Rows, check_norm, check_norm_grad
from tilegrad.kernels.sizes import cdiv
from tilegrad.kernels.sum.cpu import sum_rows

_float32 = np.dtype(np.float32)
_MOST_BLOCKS = 32  # of rows, whose gradients of weight and bias are added afterwards
_LEAST_ROWS = 16  # of a block
_ZERO = np.float32(0)


def layer_norm(
    x: Array,
    ndim: int,
    weight: Array | None = None,
    bias: Array | None = None,
    eps: float = 1e-5,
    residual: Array | None = None,
) -> tuple[Array, ...]:
    """layer_norm.reference.layer_norm. Traffic: reads 4, writes 4 bytes an element; with a residual 8 and 8."""
    s = check_norm("layer_norm", x, ndim, weight, bias, eps, residual)
    if not _is_served(s):
        return _otherwise(s, layer_norm, reference.layer_norm, x, ndim, weight, bias, eps, residual)
    y, mean, rstd, *joined = _normalized(s, x, residual, weight, bias, eps, True)
    return y, mean, rstd, *joined


def rms_norm(
    x: Array, ndim: int, weight: Array | None = None, eps: float = 1e-5, residual: Array | None = None
) -> tuple[Array, ...]:
    """layer_norm.reference.rms_norm. Traffic: reads 4, writes 4 bytes an element; with a residual 8 and 8."""
    s = check_norm("rms_norm", x, ndim, weight, None, eps, residual)
    if not _is_served(s):
        return _otherwise(s, rms_norm, reference.rms_norm, x, ndim, weight, eps, residual)
    y, _, rstd, *joined = _normalized(s, x, residual, weight, None, eps, False)
    return y, rstd, *joined


def layer_norm_grad(
    dy: Array,
    x: Array,
    mean: Array,
    rstd: Array,
    weight: Array | None = None,
    to_weight: bool = False,
    to_bias: bool = False,
    ds: Array | None = None,
) -> tuple[Array, ...]:
    """layer_norm.reference.layer_norm_grad. Traffic: reads 8, writes 4 bytes an element; with ds reads 12."""
    s = check_norm_grad("layer_norm_grad", dy, x, mean, rstd, weight, ds)
    if not _is_served(s):
        arguments = dy, x, mean, rstd, weight, to_weight, to_bias, ds
        return _otherwise_grad(s, layer_norm_grad, reference.layer_norm_grad, *arguments)
    return _gradients(s, dy, x, mean, rstd, weight, to_weight, to_bias, ds)


def rms_norm_grad(
    dy: Array,
    x: Array,
    rstd: Array,
    weight: Array | None = None,
    to_weight: bool = False,
    ds: Array | None = None,
) -> tuple[Array, ...]:
    """layer_norm.reference.rms_norm_grad. Traffic: reads 8, writes 4 bytes an element; with ds reads 12."""
    s = check_norm_grad("rms_norm_grad", dy, x, None, rstd, weight, ds)
    if not _is_served(s):
        return _otherwise_grad(s, rms_norm_grad, reference.rms_norm_grad, dy, x, rstd, weight, to_weight, ds)
    return _gradients(s, dy, x, None, rstd, weight, to_weight, False, ds)


def _is_served(s: Rows) -> bool:
    return s.dtype == _float32 and s.count > 0 and s.n > 0


def _otherwise(
    s: Rows, primitive: Callable[..., Any], specification: Callable[..., Any], x: Array, *arguments: Any
) -> tuple[Array, ...]:
    """The primitive for rows that are not served as they are; the last of the arguments is the residual."""
    if s.dtype not in HALVES or s.count == 0 or s.n == 0:
        return whole(specification, x, *arguments)
    *arguments, residual = arguments
    if residual is None:
        return whole(in_float32, primitive, 1, x, *arguments)
    return whole(_of_sum, primitive, x, residual, *arguments)


def _of_sum(primitive: Callable[..., Any], x: Array, residual: Array, *arguments: Any) -> tuple[Array, ...]:
    """The primitive of the sum, 16-bit numbers that are rounded before it computes in float32; and the sum."""
    with np.errstate(all="ignore"):
        joined = np.add(x, residual, order="C")
    return *in_float32(primitive, 1, joined, *arguments), joined


def _otherwise_grad(
    s: Rows, primitive: Callable[..., Any], specification: Callable[..., Any], *arguments: Any
) -> tuple[Array, ...]:
    if s.dtype in HALVES and s.count > 0 and s.n > 0:
        return whole(in_float32, primitive, 3, *arguments)
    return whole(specification, *arguments)


def _normalized(
    s: Rows, x: Array, residual: Array | None, weight: Array | None, bias: Array | None, eps: float, centred: bool
) -> tuple[Array, ...]:
    """y, mean, rstd, and x + residual where there is one."""
    y, mean, rstd = buffers.empty(x.shape, _float32), np.empty(s.count, _float32), np.empty(s.count, _float32)
    joins = residual is not None
    joined = buffers.empty(x.shape, _float32) if joins else y
    x, flat = _flat(x), y.reshape(-1)
    threads.share(
        _layer_norm, s.count if y.nbytes > threads.WORTH_SHARING else 1, s.count,
        x, _flat(residual) if joins else x, _along(s, weight, 1), _along(s, bias, 0),
        joined.reshape(-1) if joins else flat, flat, mean, rstd, s.n, float(eps), int(centred), int(joins),
    )  # fmt: skip
    return y, mean.reshape(s.lead), rstd.reshape(s.lead), *([joined] if joins else [])


def _gradients(
    s: Rows,
    dy: Array,
    x: Array,
    mean: Array | None,
    rstd: Array,
    weight: Array | None,
    to_weight: bool,
    to_bias: bool,
    ds: Array | None,
) -> tuple[Array, ...]:
    """mean is None where the rows were not centred."""
    dx = buffers.empty(x.shape, _float32)
    of_a_block = max(_LEAST_ROWS, cdiv(s.count, _MOST_BLOCKS))
    blocks = cdiv(s.count, of_a_block)
    parts = buffers.empty((blocks, 2, s.n), _float32)
    dy = _flat(dy)
    threads.share(
        _layer_norm_grad, blocks if dx.nbytes > threads.WORTH_SHARING else 1, blocks,
        dy, _flat(x), dy if ds is None else _flat(ds), _flat(rstd if mean is None else mean), _flat(rstd),
        _along(s, weight, 1), dx.reshape(-1), parts.reshape(-1), s.n, s.count, of_a_block,
        int(mean is not None), int(to_weight or to_bias), int(ds is not None),
    )  # fmt: skip
    if not (to_weight or to_bias):
        return (dx,)
    sums = np.empty((2, *s.shape), _float32)
    threads.share(sum_rows, 1, 1, parts.reshape(1, blocks, -1), sums.reshape(1, -1))
    return dx, *([sums[0]] if to_weight else []), *([sums[1]] if to_bias else [])


def _flat(a: Array) -> Array:
    return contiguous(a).reshape(-1)


def _along(s: Rows, a: Array | None, otherwise: int) -> Array:
    """weight or bias as one row; a row of ones or zeros where there is none."""
    return _constant(s.n, otherwise) if a is None else _flat(a)


@lru_cache(maxsize=64)
def _constant(n: int, value: int) -> Array:
    return np.full(n, value, _float32)


@njit(nogil=True, cache=True, error_model="numpy")
def _layer_norm(
    x, residual, weight, bias, joined, y, mean, rstd, n, eps, centred, joins, begin, stop, part, team
):  # fmt: skip
    """y of rows begin to stop, each of n numbers; mean is not written unless the rows are centred.

    joins: whether what is normalised is the sum of x and residual, which goes to joined; else the two are not used.
    """
    if team:
        share(begin, stop, part, team)
        return
    source = joined if joins else x
    for i in range(begin, stop):
        if joins:
            for j in range(i * n, i * n + n):
                store(joined, j, load(x, j) + load(residual, j))
        x_row, out = row(source, i * n, n), row(y, i * n, n)
        m = np.float32(total(x_row) / n) if centred else _ZERO
        rest, square = moments(x_row, m)
        rest, square = rest / n, square / n
        if centred:
            square -= rest * rest
        else:
            rest = 0.0
        less, r = np.float32(rest), np.float32(1 / np.sqrt(square + eps))
        for j in range(out.size):
            out[j] = ((x_row[j] - m) - less) * r * weight[j] + bias[j]
        mean[i] = m + less
        rstd[i] = r


@njit(nogil=True, cache=True, error_model="numpy")
def _layer_norm_grad(
    dy, x, ds, mean, rstd, weight, dx, parts, n, rows, of_a_block, centred, to_both, joins, begin, stop, part, team
):  # fmt: skip
    """dx of the rows of blocks begin to stop; parts (blocks, 2, n): of each the sums of dy xhat and of dy.

    joins: whether ds is added to dx; else it is not used.
    """
    if team:
        share(begin, stop, part, team)
        return
    for block in range(begin, stop):
        dw, db = row(parts, 2 * block * n, n), row(parts, 2 * block * n + n, n)
        if to_both:
            for j in range(n):
                dw[j] = 0
                db[j] = 0
        for i in range(block * of_a_block, smaller(block * of_a_block + of_a_block, rows)):
            dy_row, x_row, dx_row = row(dy, i * n, n), row(x, i * n, n), row(dx, i * n, n)
            m, r = mean[i] if centred else _ZERO, rstd[i]
            sum_g, sum_gd = _sums_of_grad(dy_row, x_row, weight, m)
            c1 = np.float32(sum_g / n) if centred else _ZERO
            c2 = np.float32(sum_gd / n * r)  # mean(g xhat)
            if to_both:
                for j in range(n):
                    g, xhat = load(dy_row, j), (load(x_row, j) - m) * r
                    store(dx_row, j, ((g * load(weight, j) - c1) - xhat * c2) * r)
                    add_to_one(dw, j, g * xhat)
                    add_to_other(db, j, g)
            else:
                for j in range(n):
                    g, xhat = load(dy_row, j), (load(x_row, j) - m) * r
                    store(dx_row, j, ((g * load(weight, j) - c1) - xhat * c2) * r)
            if joins:
                ds_row = row(ds, i * n, n)
                for j in range(n):
                    store(dx_row, j, dx_row[j] + load(ds_row, j))


@njit(nogil=True, fastmath=REASSOC)
def _sums_of_grad(dy, x, weight, m):
    """The sums of g and of g (x - m), g = dy weight."""
    summed, product = 0.0, 0.0
    for first in range(0, x.size, BLOCK):
        part, other = _ZERO, _ZERO
        for j in range(first, smaller(first + BLOCK, x.size)):
            g = load(dy, j) * load(weight, j)
            part += g
            other += g * (load(x, j) - m)
        summed += part
        product += other
    return summed, product
