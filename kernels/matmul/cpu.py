"""Matrix multiplication on the CPU, compiled: the register tile over panels of b.

    y   a tile is a few rows of a times `vectors` vectors of b's columns; its terms are one run of K

a is read by single elements, along its rows or its columns. b is read by vectors; if its columns are contiguous and its
rows are not, it is first laid out as panels of a tile's width. A product whose b would cost more to lay out than its a
is computed transposed, y^T = b^T a^T. Operands in any other memory order are copied.

One core with AVX-512, whose caches another program shared; GFLOP/s of (128, 512) @ (512, 784), the gradient of a weight
at batch 512, with b not laid out:

    | the tile's terms                                            | GFLOP/s |
    | all 512 at once, 12 rows of a in turn for every panel of b  |    49   |
    | the same, 60 rows                                           |    64   |
    | 128 at a time, 60 rows: the panel stays in the first cache  |    74   |

If b is laid out, blocks of 112 to 196 terms gain nothing (0 to -8 %), so there all terms are one run. Within a training
step a layer is slower than in a loop of its own, (32, 784) @ (784, 128) by two thirds: weights, gradients and Adam's
moments together are more than the second cache holds.

Served here is what small nets need, where the threads of BLAS would disturb ours: single float32 products with K up to
4096, whose M or N is a multiple of a vector's length. Below _TINY multiply-adds NumPy's call of BLAS is cheapest (and
BLAS keeps to one thread). All else is left to the reference, which is BLAS too.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from tilegrad.kernels.activations.cpu import activated, relu_grad
from tilegrad.kernels.activations.reference import ACTIVATIONS
from tilegrad.kernels.checks import PRECISIONS
from tilegrad.kernels.cpu import buffers, threads
from tilegrad.kernels.cpu.effects import dense, do, whole
from tilegrad.kernels.cpu.tile import (
    BIAS,
    HELD,
    LANES,
    NO_BIAS,
    NO_SHIFT,
    ONE_RUN,
    ROW_BLOCK,
    WIDEST,
    ZERO,
    Walk,
    row_table,
    tiles,
    walk_array,
)
from tilegrad.kernels.matmul import reference
from tilegrad.kernels.matmul.cpu_dots import dots, items
from tilegrad.kernels.matmul.cpu_panels import lay_out
from tilegrad.kernels.sizes import cdiv
from tilegrad.kernels.sum.cpu import sum

_MOST_TERMS = 4096
_TINY = 1 << 11  # multiply-adds
_MANY_ROWS = 192  # from there on transposing b once costs less than sums across lanes in every tile
_SHARED_FROM = 1 << 20  # multiply-adds: some 20 microseconds of one core
_LAY_OUT_SHARED_FROM = 1 << 17  # elements: as long a time
_NEAR = 1 << 12  # floats of a that the tiles of an item read again for every panel: a third of a first-level cache
_FEW_ROWS = 256  # of a; up to so many are read again for each panel of b
_BLOCK = 128  # terms of a panel that is not laid out; its rows lie on as many pages, and should stay in that cache
_MOST_ROWS_REMEMBERED = 1 << 12

_float32 = np.dtype(np.float32)


def matmul(
    a: np.ndarray,
    b: np.ndarray,
    bias: np.ndarray | None = None,
    activation: str | None = None,
    precision: str = "ieee",
) -> np.ndarray:
    """matmul.reference.matmul.

    Traffic: reads a and b once (from the cache again for every panel), writes 4 M N bytes.
    """
    if not _is_single_float32(a, b, bias, activation, precision):
        if activation in ACTIVATIONS and getattr(a, "dtype", None) == _float32 == getattr(b, "dtype", None):
            return activated(whole(reference.matmul, a, b, bias, None, precision), activation)
        return whole(reference.matmul, a, b, bias, activation, precision)
    (m, k), n = a.shape, b.shape[1]
    straight, across = n % LANES == 0, m % LANES == 0
    if not _TINY < m * n * k or k > _MOST_TERMS:
        return activated(whole(_by_blas, a, b, bias), activation)
    if b.flags.f_contiguous and a.flags.c_contiguous:  # a layer's forward pass
        y = (
            _product(a, b, bias, activation == "relu")
            if straight and m >= _MANY_ROWS
            else _row_by_row(a, b.T, bias, activation == "relu")
        )
    elif not (straight or across):
        return activated(whole(_by_blas, a, b, bias), activation)
    elif straight and (n <= m or not across or b.flags.c_contiguous):
        y = _product(a, b, bias, activation == "relu")
    else:
        y = dense(_product(b.T, a.T, bias, activation == "relu", transposed=True).T)
    return y if activation == "relu" else activated(y, activation)


def matmul_kept(
    a: np.ndarray, b: np.ndarray, bias: np.ndarray | None, activation: str | None, precision: str = "ieee"
) -> tuple[np.ndarray, np.ndarray]:
    """matmul.reference.matmul_kept, as two kernels.

    The arithmetic of gelu and silu hides the reading of z. Applied to the rows of each item of the tiles while those
    are in the second cache, gelu made (1024, 128) @ (128, 512) 2 % slower than after the whole product: one core with
    AVX-512.

    Traffic: matmul's, and that of the activation.
    """
    if activation in ACTIVATIONS and getattr(a, "dtype", None) == _float32 == getattr(b, "dtype", None):
        z = matmul(a, b, bias, None, precision)
        return z, activated(z, activation)
    return whole(reference.matmul_kept, a, b, bias, activation, precision)


def linear_grad(
    dy: np.ndarray,
    y: np.ndarray | None,
    x: np.ndarray | None,
    w: np.ndarray | None,
    bias: bool = False,
    precision: str = "ieee",
) -> tuple[np.ndarray, ...]:
    """matmul.reference.linear_grad, one gradient after the other.

    Traffic: that of the gradients.
    """
    return reference.one_by_one(reference.Parts(relu_grad, matmul, sum), dy, y, x, w, bias, precision)


@np.errstate(over="ignore", invalid="ignore")  # infinity and NaN are results like any other
def _by_blas(a: np.ndarray, b: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    y = np.matmul(a, b)
    if bias is not None:
        y += bias
    return y


def _is_single_float32(a: np.ndarray, b: np.ndarray, bias: np.ndarray | None, activation: str | None, precision: str):
    """Whether these are one float32 product that passes all checks of the reference."""
    if not (type(a) is np.ndarray is type(b) and a.dtype == _float32 == b.dtype and a.ndim == 2 == b.ndim):
        return False
    k, n = b.shape
    return (
        a.shape[1] == k
        and (bias is None or (type(bias) is np.ndarray and bias.dtype == _float32 and bias.shape == (n,)))
        and (activation is None or activation in ACTIVATIONS)
        and precision in PRECISIONS
    )


def _row_by_row(a: np.ndarray, b: np.ndarray, bias: np.ndarray | None, relu: bool) -> np.ndarray:
    """act(a @ b^T + bias); the rows of a and b are contiguous."""
    (m, k), n = a.shape, len(b)
    y = buffers.empty((m, n), _float32)
    flat = _flat(a)[0], _flat(b)[0], NO_BIAS if bias is None else _flat(bias)[0], y.reshape(-1)
    pieces = items(m, n)
    most = pieces if m * n * k >= _SHARED_FROM else 1
    threads.share(dots, most, pieces, *flat, m, n, k, ZERO if bias is None else BIAS, int(relu))
    return y


def _product(a: np.ndarray, b: np.ndarray, bias: np.ndarray | None, relu: bool, transposed: bool = False) -> np.ndarray:
    """act(a @ b + bias) for a b that is a whole number of vectors wide; transposed: the bias goes down the rows."""
    (m, k), n = a.shape, b.shape[1]
    y = buffers.empty((m, n), _float32)
    start = ZERO if bias is None else HELD if transposed else BIAS
    if start == HELD:
        do(np.copyto, y, bias[:, None])
    a, by_columns = _flat(a)
    b, in_panels = _flat(b)
    plan = (_plan if m <= _MOST_ROWS_REMEMBERED else _plan.__wrapped__)(m, n, k, by_columns, in_panels, start, relu)
    if in_panels:
        panels = buffers.empty((n * k,), _float32)
        most = n // LANES if n * k >= _LAY_OUT_SHARED_FROM else 1
        threads.share(lay_out, most, n // LANES, b, k, panels, plan.panel_at, plan.panel_step)
        b = panels
    above = _flat(bias)[0] if start == BIAS else NO_BIAS
    arrays = plan.walks, y.reshape(-1), plan.y_at, NO_SHIFT, a, plan.a_at, ONE_RUN, b, above
    threads.share(tiles, plan.items if m * n * k >= _SHARED_FROM else 1, plan.items, *arrays)
    return y


def _flat(a: np.ndarray) -> tuple[np.ndarray, bool]:
    """The elements of an array as one contiguous dimension, and whether they are in the order of its columns.

    A copy if they are in neither order. Also a copy of a read-only or misaligned array, which is another type to Numba.
    """
    flags = a.flags
    if flags.behaved:
        if flags.c_contiguous:
            return a.reshape(-1), False
        if flags.f_contiguous:
            return a.T.reshape(-1), True
    return dense(a).reshape(-1), False


class _Plan(NamedTuple):
    """How the tiles go over one product."""

    walks: np.ndarray
    items: int
    y_at: np.ndarray
    a_at: np.ndarray
    panel_at: np.ndarray  # for every LANES columns of b, where they begin in its panels
    panel_step: np.ndarray  # for every LANES columns of b, the width of their panel


@lru_cache(maxsize=256)
def _plan(m: int, n: int, k: int, by_columns: bool, in_panels: bool, start: int, relu: bool) -> _Plan:
    """The plan for a (m, k), in the order of its columns or not, and b (k, n), laid out in panels or not."""
    blocks = 1 if in_panels else cdiv(k, _BLOCK)
    by_panels = not in_panels and m <= _FEW_ROWS and n >= 4 * WIDEST * LANES
    if by_panels:
        items, item_rows = cdiv(n, WIDEST * LANES), m
    else:
        most = ROW_BLOCK * max(1, (_NEAR // k if in_panels else _BLOCK // 2) // ROW_BLOCK)
        items = cdiv(m, most)
        items += items % 2 if m >= 2 * ROW_BLOCK else 0  # an even number: two threads are the most common
        item_rows = ROW_BLOCK * cdiv(m, items * ROW_BLOCK)
        items = cdiv(m, item_rows)
    walks, panel_at, panel_step = [], [], []
    for block in range(blocks):
        first, end = k * block // blocks, k * (block + 1) // blocks
        column = 0
        for vectors in (4, 2, 1):  # as few and as wide panels as there can be
            width = vectors * LANES
            panels = (n - column) // width if vectors <= WIDEST else 0
            if not panels:
                continue
            sharing = {"item_rows": item_rows, "total_rows": m, "panels": panels, "rows": item_rows}
            if by_panels:  # the next terms of this panel follow, or the first terms of the next panel
                fetch = (end - first) * n if end < k else width - first * n
                sharing = {"item_panels": 1, "total_panels": panels, "panels": 1, "rows": m, "fetch": fetch}
            walks.append(Walk(
                vectors=vectors, **sharing, run=end - first, w_step=width if in_panels else n,
                x_step=m if by_columns else 1, y_panel=width, y_base=column,
                x_base=first * (m if by_columns else 1),
                w_panel=width * k if in_panels else width, w_base=column * k if in_panels else column + first * n,
                bias_panel=width if start == BIAS else 0, bias_base=column if start == BIAS else 0,
                start=HELD if block else start, relu=int(relu and end == k),
            ))  # fmt: skip
            if in_panels:
                panel_at += [(column + i * width) * k + v * LANES for i in range(panels) for v in range(vectors)]
                panel_step += [width] * (panels * vectors)
            column += panels * width
    return _Plan(
        walk_array(*walks),
        items,
        row_table(np.arange(m) * n),
        row_table(np.arange(m) * (1 if by_columns else k)),
        np.array(panel_at, np.intp),
        np.array(panel_step, np.intp),
    )
