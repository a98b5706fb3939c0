"""Matrix multiplication on the CPU, compiled: the register tile over panels of b.

    y   a tile is `rows` rows of a times `vectors` vectors of b's columns; its terms are one run of K

a is read by single elements and may lie in memory any way; b is read by vectors and is laid out first, as panels of a
tile's width, unless its rows are contiguous already. A product whose b would cost more to lay out than its a is
computed transposed, y^T = b^T a^T.

Served here is what small nets need, where calling BLAS costs as much as multiplying and its threads get in the way of
ours: single float32 products, K up to 4096, columns that whole vectors hold. All else is the reference's: BLAS.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import njit

from kernels import buffers, threads
from kernels import matmul_reference as reference
from kernels.activations_reference import apply_activation
from kernels.tile_cpu import BIAS, HELD, LANES, NO_BIAS, ONE_RUN, ROWS, ZERO, tile, tile_shape

_MOST_TERMS = 4096
_PARALLEL_FROM = 1 << 22  # multiply-adds, 40 microseconds' worth: twice what handing out the work costs


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
    if dtype != np.float32 or a.ndim != 2 or b.ndim != 2 or not 0 < a.shape[1] <= _MOST_TERMS or not a.shape[0]:
        return reference.matmul(a, b, bias, activation, precision)
    m, n = a.shape[0], b.shape[1]
    straight, across = n % LANES == 0, m % LANES == 0
    if straight and (b.strides[1] == 4 or n <= m or not across):
        y = _product(a, b, bias, activation == "relu")
    elif across:
        y = np.ascontiguousarray(_product(b.T, a.T, bias, activation == "relu", transposed=True).T)
    else:
        return reference.matmul(a, b, bias, activation, precision)
    if activation not in (None, "relu"):
        apply_activation(y, activation)
    return y


def _product(a: np.ndarray, b: np.ndarray, bias: np.ndarray | None, relu: bool, transposed: bool = False) -> np.ndarray:
    """act(a @ b + bias) for a b that is a whole number of vectors wide; transposed: the bias goes down the rows."""
    (m, k), n = a.shape, b.shape[1]
    rows, vectors = tile_shape(n)
    width = vectors * LANES
    parts = threads.num_threads() if m * n * k >= _PARALLEL_FROM else 1
    if b.strides[1] == 4:
        panels, panel_size, b_step = b, width, b.strides[0] // 4
    else:
        panels, panel_size, b_step = buffers.empty((n // width, k, width), np.float32), k * width, width
        threads.parallel(_lay_out, parts, n // width, b, panels)
    y = buffers.empty((m, n), np.float32)
    start = ZERO if bias is None else BIAS
    if transposed and bias is not None:
        y[:] = bias[:, None]
        start = HELD
    row_tiles = -(-m // rows)
    threads.parallel(
        _multiply,
        parts,
        row_tiles * (n // width),
        *(a, panels, np.ascontiguousarray(bias) if start == BIAS else NO_BIAS, y),
        *(_offsets(m, a.strides[0] // 4), _offsets(m, n), a.strides[1] // 4, panel_size, b_step),
        *(rows, row_tiles, vectors, start, int(relu)),
    )
    return y


@lru_cache(maxsize=256)
def _offsets(m: int, step: int) -> np.ndarray:
    """Where m rows begin, the last repeated so that a tile may begin at any of them."""
    return np.pad(np.arange(m) * step, (0, max(ROWS.values())), mode="edge").astype(np.intp)


@njit(nogil=True, cache=True)
def _multiply(
    a, panels, bias, y, a_at, y_at, a_step, panel_size, b_step, rows, row_tiles, vectors, start, relu,
    begin, stop, part,
):  # fmt: skip
    width, terms = vectors * LANES, a.shape[1]
    for item in range(begin, stop):  # all rows of one panel, then the next: the panel stays in the cache
        i, p = item // row_tiles, item % row_tiles * rows
        tile(
            vectors,
            y, y_at[p:], i * width,
            a, a_at[p:], 0, ONE_RUN, terms, a_step,
            panels, i * panel_size, b_step,
            bias, i * width, start, relu,
        )  # fmt: skip


@njit(nogil=True, cache=True)
def _lay_out(b, panels, begin, stop, part):
    """b (K, N) into panels (N / width, K, width)."""
    terms, width = panels.shape[1:]
    for i in range(begin, stop):
        for first in range(0, terms, 16):  # 16 terms of a column are one cache line of b
            for j in range(width):
                for k in range(first, min(first + 16, terms)):
                    panels[i, k, j] = b[k, i * width + j]
