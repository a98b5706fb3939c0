"""Matrix multiplication on the CPU, compiled: the register tile over panels of b.

    y   a tile is a few rows of a times `vectors` vectors of b's columns; its terms are one run of K

a is read by single elements and may lie in memory any way; b is read by vectors and is laid out first, as panels of a
tile's width, unless its rows are contiguous already. A product whose b would cost more to lay out than its a is
computed transposed, y^T = b^T a^T.

Served here is what small nets need, where the threads of BLAS get in the way of ours: single float32 products, K up to
4096, with a dimension that whole vectors hold. Below _TINY multiply-adds NumPy's call of BLAS is cheapest (and BLAS
keeps to one thread); all else is the reference's, which is BLAS too.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import njit

from kernels import buffers, threads
from kernels import matmul_reference as reference
from kernels.activations_reference import apply_activation
from kernels.tile_cpu import BIAS, HELD, LANES, NO_BIAS, ONE_RUN, ROW_BLOCK, ROWS, WIDEST, ZERO, tile

_MOST_TERMS = 4096
_PANEL = WIDEST * LANES  # columns
_ROWS_OF = np.array([ROWS.get(v, 0) for v in range(5)])
_TINY = 1 << 18  # multiply-adds
_PARALLEL_FROM = 1 << 22  # multiply-adds: some 90 microseconds of one core, twice what sharing them costs


def matmul(
    a: np.ndarray,
    b: np.ndarray,
    bias: np.ndarray | None = None,
    activation: str | None = None,
    precision: str = "ieee",
) -> np.ndarray:
    """matmul_reference.matmul.

    Traffic: reads a and b once (from the cache again for every panel), writes 4 M N bytes.
    """
    dtype = reference.check_matmul(a, b, bias, activation, precision)
    (m, k), n = a.shape[-2:], b.shape[-1]
    straight, across = n % LANES == 0, m % LANES == 0
    if dtype != np.float32 or a.ndim != 2 or b.ndim != 2 or m * n * k <= _TINY or k > _MOST_TERMS:
        return reference.unchecked_matmul(a, b, bias, activation)
    if any(step % 4 for step in (*a.strides, *b.strides)):  # a field of packed records: offsets are no whole elements
        return reference.unchecked_matmul(a, b, bias, activation)
    if straight and (b.strides[1] == 4 or n <= m or not across):
        y = _product(a, b, bias, activation == "relu")
    elif across:
        y = np.ascontiguousarray(_product(b.T, a.T, bias, activation == "relu", transposed=True).T)
    else:
        return reference.unchecked_matmul(a, b, bias, activation)
    if activation not in (None, "relu"):
        apply_activation(y, activation)
    return y


def _product(a: np.ndarray, b: np.ndarray, bias: np.ndarray | None, relu: bool, transposed: bool = False) -> np.ndarray:
    """act(a @ b + bias) for a b that is a whole number of vectors wide; transposed: the bias goes down the rows."""
    (m, k), n = a.shape, b.shape[1]
    most = threads.num_threads() if m * n * k >= _PARALLEL_FROM else 1
    b_step = b.strides[0] // 4
    if b.strides[1] != 4 or b_step == 0:  # one row broadcast to all is laid out too: a step of 0 means panels below
        laid_out = buffers.empty((k, n), np.float32)
        threads.parallel(_lay_out, most, -(-n // _PANEL), b, laid_out.reshape(-1))
        b, b_step = laid_out, 0
    y = buffers.empty((m, n), np.float32)
    start = ZERO if bias is None else BIAS
    if transposed and bias is not None:
        y[:] = bias[:, None]
        start = HELD
    bias = np.ascontiguousarray(bias) if start == BIAS else NO_BIAS
    offsets = _offsets(m, a.strides[0] // 4), _offsets(m, n)
    threads.parallel(
        _multiply, most, -(-m // ROW_BLOCK), a, b, bias, y, *offsets, a.strides[1] // 4, b_step, start, int(relu)
    )
    return y


@lru_cache(maxsize=256)
def _offsets(m: int, step: int) -> np.ndarray:
    """Where m rows begin, the last repeated so that a tile may begin at any of them."""
    return np.pad(np.arange(m) * step, (0, max(ROWS.values())), mode="edge").astype(np.intp)


@njit(nogil=True, cache=True)
def _multiply(a, b, bias, y, a_at, y_at, a_step, b_step, start, relu, begin, stop, part):
    """Rows begin * ROW_BLOCK to stop * ROW_BLOCK of y; b_step 0 says that b is laid out in panels."""
    (m, terms), n = a.shape, b.shape[1]
    first_row, last_row = begin * ROW_BLOCK, min(stop * ROW_BLOCK, m)
    column = 0
    while column < n:  # all rows of one panel, then the next: the panel stays in the cache
        vectors = _vectors(n - column)
        width = vectors * LANES
        for row in range(first_row, last_row, _ROWS_OF[vectors]):
            tile(
                vectors,
                y, y_at, column, row,
                a, a_at, 0, ONE_RUN, terms, a_step,
                b, column if b_step else column * terms, b_step if b_step else width,
                bias, column if start == BIAS else 0, start, relu,
            )  # fmt: skip
        column += width


@njit(nogil=True, cache=True)
def _vectors(columns):
    """The width in vectors of the next panel, where this many columns are left."""
    for vectors in (4, 2):
        if vectors <= WIDEST and vectors * LANES <= columns:
            return vectors
    return 1


@njit(nogil=True, cache=True)
def _lay_out(b, panels, begin, stop, part):
    """Panels begin to stop of b (K, N), each (K, its width), one behind the other."""
    terms, n = b.shape
    column, last = begin * _PANEL, min(stop * _PANEL, n)
    while column < last:
        width = _vectors(n - column) * LANES
        panel = panels[column * terms : (column + width) * terms].reshape(terms, width)
        for first in range(0, terms, 16):  # 16 terms of a column are one cache line of b
            for j in range(width):
                for k in range(first, min(first + 16, terms)):
                    panel[k, j] = b[k, column + j]
        column += width
