"""Layer and RMS normalisation on the CPU, compiled: a row is read from memory once, and then from the cache.

Served here are float32 arrays, and the 16-bit types by way of float32. All else is left to the reference. Rows are
shared out among the threads. Of the gradients of weight and bias each *block* of rows makes a part of its own, and
the parts are added in their order: what the blocks are depends on the shape alone, and so do the bits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from tilegrad.kernels.cpu import buffers, threads
from tilegrad.kernels.cpu.code import njit
from tilegrad.kernels.cpu.effects import contiguous, whole
from tilegrad.kernels.cpu.halves import HALVES, in_float32
from tilegrad.kernels.cpu.long_sums import BLOCK, REASSOC, moments, total
from tilegrad.kernels.cpu.team import share
from tilegrad.kernels.layer_norm import reference
from tilegrad.kernels.layer_norm.reference import Array, Rows, check_norm, check_norm_grad
from tilegrad.kernels.sizes import cdiv
from tilegrad.kernels.sum.cpu import sum_rows

_float32 = np.dtype(np.float32)
_MOST_BLOCKS = 32  # of rows, whose gradients of weight and bias are added afterwards
_LEAST_ROWS = 16  # of a block
_ZERO, _ONE = np.float32(0), np.float32(1)


def layer_norm(
    x: Array, ndim: int, weight: Array | None = None, bias: Array | None = None, eps: float = 1e-5
) -> tuple[Array, Array, Array]:
    """layer_norm.reference.layer_norm. Traffic: reads 4, writes 4 bytes an element."""
    s = check_norm("layer_norm", x, ndim, weight, bias, eps)
    if not _is_served(s):
        return _otherwise(s, layer_norm, reference.layer_norm, 1, x, ndim, weight, bias, eps)
    return _normalized(s, x, weight, bias, eps, True)


def rms_norm(x: Array, ndim: int, weight: Array | None = None, eps: float = 1e-5) -> tuple[Array, Array]:
    """layer_norm.reference.rms_norm. Traffic: reads 4, writes 4 bytes an element."""
    s = check_norm("rms_norm", x, ndim, weight, None, eps)
    if not _is_served(s):
        return _otherwise(s, rms_norm, reference.rms_norm, 1, x, ndim, weight, eps)
    y, _, rstd = _normalized(s, x, weight, None, eps, False)
    return y, rstd


def layer_norm_grad(
    dy: Array,
    x: Array,
    mean: Array,
    rstd: Array,
    weight: Array | None = None,
    to_weight: bool = False,
    to_bias: bool = False,
) -> tuple[Array, ...]:
    """layer_norm.reference.layer_norm_grad. Traffic: reads 8, writes 4 bytes an element."""
    s = check_norm_grad("layer_norm_grad", dy, x, mean, rstd, weight)
    if not _is_served(s):
        arguments = dy, x, mean, rstd, weight, to_weight, to_bias
        return _otherwise(s, layer_norm_grad, reference.layer_norm_grad, 3, *arguments)
    return _gradients(s, dy, x, mean, rstd, weight, to_weight, to_bias)


def rms_norm_grad(
    dy: Array, x: Array, rstd: Array, weight: Array | None = None, to_weight: bool = False
) -> tuple[Array, ...]:
    """layer_norm.reference.rms_norm_grad. Traffic: reads 8, writes 4 bytes an element."""
    s = check_norm_grad("rms_norm_grad", dy, x, None, rstd, weight)
    if not _is_served(s):
        return _otherwise(s, rms_norm_grad, reference.rms_norm_grad, 2, dy, x, rstd, weight, to_weight)
    return _gradients(s, dy, x, None, rstd, weight, to_weight, False)


def _is_served(s: Rows) -> bool:
    return s.dtype == _float32 and s.count > 0 and s.n > 0


def _otherwise(
    s: Rows, primitive: Callable[..., Any], specification: Callable[..., Any], rounded: int, *arguments: Any
) -> tuple[Array, ...]:
    """The primitive for rows that are not served as they are; `rounded` as in_float32 takes it."""
    if s.dtype in HALVES and s.count > 0 and s.n > 0:
        return whole(in_float32, primitive, rounded, *arguments)
    return whole(specification, *arguments)


def _normalized(
    s: Rows, x: Array, weight: Array | None, bias: Array | None, eps: float, centred: bool
) -> tuple[Array, Array, Array]:
    y, mean, rstd = buffers.empty(x.shape, _float32), np.empty(s.count, _float32), np.empty(s.count, _float32)
    threads.share(
        _layer_norm, s.count if y.nbytes > threads.WORTH_SHARING else 1, s.count,
        _flat(x), _along(s, weight, 1), _along(s, bias, 0), y.reshape(-1), mean, rstd, s.n, float(eps), int(centred),
    )  # fmt: skip
    return y, mean.reshape(s.lead), rstd.reshape(s.lead)


def _gradients(
    s: Rows,
    dy: Array,
    x: Array,
    mean: Array | None,
    rstd: Array,
    weight: Array | None,
    to_weight: bool,
    to_bias: bool,
) -> tuple[Array, ...]:
    """mean is None where the rows were not centred."""
    dx = buffers.empty(x.shape, _float32)
    of_a_block = max(_LEAST_ROWS, cdiv(s.count, _MOST_BLOCKS))
    blocks = cdiv(s.count, of_a_block)
    parts = buffers.empty((blocks, 2, s.n), _float32)
    threads.share(
        _layer_norm_grad, blocks if dx.nbytes > threads.WORTH_SHARING else 1, blocks,
        _flat(dy), _flat(x), _flat(rstd if mean is None else mean), _flat(rstd), _along(s, weight, 1),
        dx.reshape(-1), parts.reshape(-1), s.n, s.count, of_a_block, int(mean is not None), int(to_weight or to_bias),
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
def _layer_norm(x, weight, bias, y, mean, rstd, n, eps, centred, begin, stop, part, team):
    """y of rows begin to stop, each of n numbers; mean is not written unless the rows are centred."""
    if team:
        share(begin, stop, part, team)
        return
    for i in range(begin, stop):
        row, out = x[i * n : i * n + n], y[i * n : i * n + n]
        m = np.float32(total(row) / n) if centred else _ZERO
        rest, square = moments(row, m)
        rest, square = rest / n, square / n
        if centred:
            square -= rest * rest
        else:
            rest = 0.0
        less, r = np.float32(rest), np.float32(1 / np.sqrt(square + eps))
        for j in range(out.size):
            out[j] = ((row[j] - m) - less) * r * weight[j] + bias[j]
        mean[i] = m + less
        rstd[i] = r


@njit(nogil=True, cache=True, error_model="numpy")
def _layer_norm_grad(
    dy, x, mean, rstd, weight, dx, parts, n, rows, of_a_block, centred, to_both, begin, stop, part, team
):  # fmt: skip
    """dx of the rows of blocks begin to stop; parts (blocks, 2, n): of each the sums of dy xhat and of dy."""
    if team:
        share(begin, stop, part, team)
        return
    for block in range(begin, stop):
        dw, db = parts[2 * block * n : 2 * block * n + n], parts[2 * block * n + n : 2 * block * n + 2 * n]
        if to_both:
            for j in range(dw.size):
                dw[j] = 0
                db[j] = 0
        for i in range(block * of_a_block, min(block * of_a_block + of_a_block, rows)):
            dy_row, x_row, dx_row = dy[i * n : i * n + n], x[i * n : i * n + n], dx[i * n : i * n + n]
            m, r = mean[i] if centred else _ZERO, rstd[i]
            sum_g, sum_gd = _sums_of_grad(dy_row, x_row, weight, m)
            c1 = np.float32(sum_g / n) if centred else _ZERO
            c2 = np.float32(sum_gd / n * r)  # mean(g xhat)
            for j in range(dx_row.size):
                dx_row[j] = ((dy_row[j] * weight[j] - c1) - (x_row[j] - m) * r * c2) * r
            if to_both:
                for j in range(dw.size):
                    dw[j] += dy_row[j] * ((x_row[j] - m) * r)
                    db[j] += dy_row[j]


@njit(nogil=True, fastmath=REASSOC)
def _sums_of_grad(dy, x, weight, m):
    """The sums of g and of g (x - m), g = dy weight."""
    summed, product = 0.0, 0.0
    for first in range(0, x.size, BLOCK):
        last = first + BLOCK
        block_dy, block_x, block_w, part, other = dy[first:last], x[first:last], weight[first:last], _ZERO, _ZERO
        for j in range(block_dy.size):
            g = block_dy[j] * block_w[j]
            part += g
            other += g * (block_x[j] - m)
        summed += part
        product += other
    return summed, product
