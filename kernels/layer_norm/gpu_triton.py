"""Layer and RMS normalisation and their gradients on a GPU, in Triton: layer_norm/reference.py's formulas.

x is seen as (rows, n). One program takes ROWS rows, whole or blockwise:

    one pass    the rows stay in registers: up to 32k columns forward; 8k for a gradient, which keeps x, dy and the
                sums of two gradients
    looped      longer rows are read twice: for the moments, then for the result. Their deviations are taken from the
                mean of the first block, which no variance is then much smaller than

The gradients of weight and bias are sums over rows. A program of the gradient takes several tiles of rows one after
the other and keeps its sums: in registers, or, of longer rows, in its own row of a workspace. A second launch adds the
programs' parts (sum/gpu_triton.py). How many programs there are depends on the shape alone: no atomics, the same bits
in every run.

Where x or dy are not rows with one stride, they are copied first, by reshape. float16, bfloat16 and float32, computed
in float32.

Traffic: the forward reads x and writes y once, the gradient reads dy and x and writes dx; looped rows are read twice.
With a residual the forward reads that too and writes the sum; the gradient reads ds too.
The parts add 16 n bytes for each program, which has at least 8 tiles of rows: at most a sixth of a tile of one row.
Tiles are softmax's: 16 elements a thread, 32 of the longest rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import triton
import triton.language as tl

from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch.triton_dtypes import no_float64
from tilegrad.kernels.launch.triton_kernel import kernel
from tilegrad.kernels.layer_norm.reference import Rows, check_norm, check_norm_grad
from tilegrad.kernels.sizes import cdiv
from tilegrad.kernels.softmax.gpu_triton import tile
from tilegrad.kernels.sum.gpu_triton import add_parts

ONE_PASS = 32768  # elements of a row that stays in registers
ONE_PASS_GRAD = 8192  # of each of two
_LOOPED = 8192  # elements of a looped tile
PROGRAMS = 512  # that sum gradients over rows, at most
LEAST_TILES = 8  # of one of them


@triton.jit
def _load(ptr, row, inside, column, n, row_step, column_step):
    """(ROWS, BLOCK) in float32, 0 beyond the rows and columns."""
    within = inside[:, None] & (column < n)[None, :]
    return tl.load(ptr + (row * row_step)[:, None] + (column * column_step)[None, :], mask=within, other=0.0).to(
        tl.float32
    )


@triton.jit
def _load_joined(x_ptr, residual_ptr, row, inside, column, n, x_row, x_column, residual_row, residual_column):
    """x, or x + residual, rounded as it will be stored."""
    x = _load(x_ptr, row, inside, column, n, x_row, x_column)
    if residual_ptr is not None:
        x += _load(residual_ptr, row, inside, column, n, residual_row, residual_column)
        x = x.to(x_ptr.dtype.element_ty).to(tl.float32)
    return x


@triton.jit
def _store(ptr, row, inside, column, n, value):
    """To a dense (rows, n)."""
    within = inside[:, None] & (column < n)[None, :]
    tl.store(ptr + (row * n)[:, None] + column[None, :], value.to(ptr.dtype.element_ty), mask=within)


@triton.jit
def _along(ptr, column, n, step, otherwise: tl.constexpr):
    """Weight or bias of these columns in float32; `otherwise` where there is none."""
    if ptr is not None:
        return tl.load(ptr + column * step, mask=column < n, other=0.0).to(tl.float32)
    return tl.full(column.shape, otherwise, tl.float32)


@triton.jit
def _moments(x, m, inside):
    """The sums of x - m and of its square over the columns that are inside."""
    d = x - m[:, None]
    return _sum_of(d, inside), _sum_of(d * d, inside)


@triton.jit
def _sum_of(terms, inside):
    """The sum over the columns that are inside.

    Each thread adds what others send it to its own term. If that were a product, the two would be one fused operation,
    and the sum another number in each thread of the row: what is selected is no product.
    """
    return tl.sum(tl.where(inside[None, :], terms, 0.0), 1)


@triton.jit
def _affine(x, m, rest, rstd, weight, bias):
    return ((x - m[:, None]) - rest[:, None]) * rstd[:, None] * weight[None, :] + bias[None, :]


@kernel
def _layer_norm_kernel(
    x_ptr, residual_ptr, weight_ptr, bias_ptr, joined_ptr, y_ptr, mean_ptr, rstd_ptr,
    rows, n, x_row, x_column, residual_row, residual_column, weight_step, bias_step, count, eps,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, LOOPED: tl.constexpr,
):  # fmt: skip
    """x, residual: (rows, n), with their strides in elements; y, joined: (rows, n), dense; weight, bias: (n,) or None;
    rstd: (rows,).

    residual, joined: None where x itself is normalised. mean: (rows,), or None: the rows are not centred. count: n as a
    float.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    lane = tl.arange(0, BLOCK).to(tl.int64)
    m = tl.zeros([ROWS], tl.float32)
    x = _load_joined(x_ptr, residual_ptr, row, inside, lane, n, x_row, x_column, residual_row, residual_column)
    if mean_ptr is not None:
        m = tl.div_rn(tl.sum(x, 1), tl.zeros([ROWS], tl.float32) + tl.minimum(count, BLOCK * 1.0))
    rest, square = _moments(x, m, lane < n)
    if LOOPED:
        for start in range(BLOCK, n, BLOCK):
            column = start + lane
            x = _load_joined(
                x_ptr, residual_ptr, row, inside, column, n, x_row, x_column, residual_row, residual_column
            )
            more, more_square = _moments(x, m, column < n)
            rest += more
            square += more_square
    rest = tl.div_rn(rest, tl.zeros([ROWS], tl.float32) + count)
    square = tl.div_rn(square, tl.zeros([ROWS], tl.float32) + count)
    if mean_ptr is not None:
        square = square - rest * rest
        tl.store(mean_ptr + row, m + rest, mask=inside)
    else:
        rest = tl.zeros([ROWS], tl.float32)
    rstd = tl.div_rn(1.0, tl.sqrt_rn(square + eps))
    tl.store(rstd_ptr + row, rstd, mask=inside)
    if LOOPED:
        for start in range(0, n, BLOCK):
            column = start + lane
            x = _load_joined(
                x_ptr, residual_ptr, row, inside, column, n, x_row, x_column, residual_row, residual_column
            )
            w = _along(weight_ptr, column, n, weight_step, 1.0)
            b = _along(bias_ptr, column, n, bias_step, 0.0)
            if joined_ptr is not None:
                _store(joined_ptr, row, inside, column, n, x)
            _store(y_ptr, row, inside, column, n, _affine(x, m, rest, rstd, w, b))
    else:
        w = _along(weight_ptr, lane, n, weight_step, 1.0)
        b = _along(bias_ptr, lane, n, bias_step, 0.0)
        if joined_ptr is not None:
            _store(joined_ptr, row, inside, lane, n, x)
        _store(y_ptr, row, inside, lane, n, _affine(x, m, rest, rstd, w, b))


@triton.jit
def _dy_and_xhat(dy_ptr, x_ptr, m, rstd, row, inside, column, n, dy_row, dy_column, x_row, x_column):
    dy = _load(dy_ptr, row, inside, column, n, dy_row, dy_column)
    x = _load(x_ptr, row, inside, column, n, x_row, x_column)
    return dy, (x - m[:, None]) * rstd[:, None]


@triton.jit
def _slope(g, xhat, c1, c2, rstd):
    return (g - c1[:, None] - xhat * c2[:, None]) * rstd[:, None]


@triton.jit
def _add_gradient(dx, ds_ptr, row, inside, column, n, ds_row, ds_column):
    if ds_ptr is not None:
        dx += _load(ds_ptr, row, inside, column, n, ds_row, ds_column)
    return dx


@triton.jit
def _add_to(at, value, inside, t):
    """Add to a program's own sums, which begin with its first tile."""
    before = tl.load(at, mask=inside & (t > 0), other=0.0)
    tl.store(at, before + value, mask=inside)


@kernel
def _layer_norm_grad_kernel(
    dy_ptr, x_ptr, ds_ptr, mean_ptr, rstd_ptr, weight_ptr, dx_ptr, dweight_ptr, dbias_ptr,
    rows, n, dy_row, dy_column, x_row, x_column, ds_row, ds_column, weight_step, tiles, count,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, LOOPED: tl.constexpr,
):  # fmt: skip
    """dy, x, ds: (rows, n), with their strides in elements; dx: (rows, n), dense; mean, rstd: (rows,); weight: (n,) or
    None.

    ds: None where nothing is added to dx. mean: None where the rows were not centred. dweight, dbias: (programs, n)
    float32, or None. A program takes `tiles` tiles of rows. count: n as a float.
    """
    program = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK).to(tl.int64)
    dw = tl.zeros([ROWS, BLOCK], tl.float32)
    db = tl.zeros([ROWS, BLOCK], tl.float32)
    for t in range(tiles):
        row = (program * tiles + t) * ROWS + tl.arange(0, ROWS)
        inside = row < rows
        rstd = tl.load(rstd_ptr + row, mask=inside, other=0.0)
        m = tl.zeros([ROWS], tl.float32)
        if mean_ptr is not None:
            m = tl.load(mean_ptr + row, mask=inside, other=0.0)
        c1 = tl.zeros([ROWS], tl.float32)
        c2 = tl.zeros([ROWS], tl.float32)
        if LOOPED:
            for start in range(0, n, BLOCK):
                column = start + lane
                dy, xhat = _dy_and_xhat(
                    dy_ptr, x_ptr, m, rstd, row, inside, column, n, dy_row, dy_column, x_row, x_column
                )
                g = dy * _along(weight_ptr, column, n, weight_step, 1.0)[None, :]
                if mean_ptr is not None:
                    c1 += _sum_of(g, column < n) / count
                c2 += _sum_of(g * xhat, column < n) / count
            for start in range(0, n, BLOCK):
                column = start + lane
                dy, xhat = _dy_and_xhat(
                    dy_ptr, x_ptr, m, rstd, row, inside, column, n, dy_row, dy_column, x_row, x_column
                )
                g = dy * _along(weight_ptr, column, n, weight_step, 1.0)[None, :]
                dx = _slope(g, xhat, c1, c2, rstd)
                dx = _add_gradient(dx, ds_ptr, row, inside, column, n, ds_row, ds_column)
                _store(dx_ptr, row, inside, column, n, dx)
                own = program * n + column
                if dweight_ptr is not None:
                    _add_to(dweight_ptr + own, tl.sum(tl.fma(dy, xhat, tl.zeros_like(dy)), 0), column < n, t)
                if dbias_ptr is not None:
                    _add_to(dbias_ptr + own, tl.sum(dy, 0), column < n, t)
            tl.debug_barrier()  # before another thread reads the sums
        else:
            dy, xhat = _dy_and_xhat(dy_ptr, x_ptr, m, rstd, row, inside, lane, n, dy_row, dy_column, x_row, x_column)
            g = dy * _along(weight_ptr, lane, n, weight_step, 1.0)[None, :]
            if mean_ptr is not None:
                c1 += _sum_of(g, lane < n) / count
            c2 += _sum_of(g * xhat, lane < n) / count
            dx = _slope(g, xhat, c1, c2, rstd)
            dx = _add_gradient(dx, ds_ptr, row, inside, lane, n, ds_row, ds_column)
            _store(dx_ptr, row, inside, lane, n, dx)
            if dweight_ptr is not None:
                dw += dy * xhat
            if dbias_ptr is not None:
                db += dy
    if not LOOPED:
        own = program * n + lane
        if dweight_ptr is not None:
            tl.store(dweight_ptr + own, tl.sum(dw, 0), mask=lane < n)
        if dbias_ptr is not None:
            tl.store(dbias_ptr + own, tl.sum(db, 0), mask=lane < n)


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
    no_float64("layer_norm", s.dtype)
    mean = gpu.xp().empty(s.lead, np.float32)
    y, rstd, *joined = _normalized(s, x, residual, weight, bias, eps, mean)
    return y, mean, rstd, *joined


def rms_norm(
    x: Any, ndim: int, weight: Any | None = None, eps: float = 1e-5, residual: Any | None = None
) -> tuple[Any, ...]:
    """layer_norm.reference.rms_norm."""
    s = check_norm("rms_norm", x, ndim, weight, None, eps, residual)
    no_float64("rms_norm", s.dtype)
    return _normalized(s, x, residual, weight, None, eps, None)


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
    no_float64("layer_norm_grad", s.dtype)
    return _gradients(s, dy, x, mean.reshape(s.count), rstd, weight, to_weight, to_bias, ds)


def rms_norm_grad(
    dy: Any, x: Any, rstd: Any, weight: Any | None = None, to_weight: bool = False, ds: Any | None = None
) -> tuple[Any, ...]:
    """layer_norm.reference.rms_norm_grad."""
    s = check_norm_grad("rms_norm_grad", dy, x, None, rstd, weight, ds)
    no_float64("rms_norm_grad", s.dtype)
    return _gradients(s, dy, x, None, rstd, weight, to_weight, False, ds)


def _normalized(
    s: Rows, x: Any, residual: Any | None, weight: Any, bias: Any, eps: float, mean: Any
) -> tuple[Any, ...]:
    """y, rstd, and x + residual where there is one."""
    xp = gpu.xp()
    y, rstd = xp.empty(x.shape, s.dtype), xp.empty(s.lead, np.float32)
    joined = None if residual is None else xp.empty(x.shape, s.dtype)
    x, residual, weight, bias = _matrix(s, x), _matrix(s, residual), _row(s, weight), _row(s, bias)
    height, block, num_warps = tile(s.count, s.n, False, ONE_PASS, _LOOPED)
    _layer_norm_kernel(
        (cdiv(s.count, height),), x, residual, weight, bias, joined, y, mean, rstd,
        s.count, s.n, *_steps(x), *_steps(residual), *_step(weight), *_step(bias), float(s.n), float(eps),
        ROWS=height, BLOCK=block, LOOPED=block < s.n, num_warps=num_warps,
    )  # fmt: skip
    return y, rstd, *([] if joined is None else [joined])


def _gradients(
    s: Rows,
    dy: Any,
    x: Any,
    mean: Any | None,
    rstd: Any,
    weight: Any | None,
    to_weight: bool,
    to_bias: bool,
    ds: Any | None,
) -> tuple[Any, ...]:
    """mean is None where the rows were not centred."""
    xp = gpu.xp()
    dx = xp.empty(x.shape, s.dtype)
    dy, x, ds, weight, rstd = _matrix(s, dy), _matrix(s, x), _matrix(s, ds), _row(s, weight), rstd.reshape(s.count)
    mean, rstd = (None if a is None else xp.ascontiguousarray(a) for a in (mean, rstd))
    height, block, num_warps = tile(s.count, s.n, False, ONE_PASS_GRAD, _LOOPED)
    tiles = cdiv(s.count, height)
    each = max(LEAST_TILES, cdiv(tiles, PROGRAMS)) if to_weight or to_bias else 1
    programs = cdiv(tiles, each)
    parts = [xp.empty((programs, s.n), np.float32) if asked else None for asked in (to_weight, to_bias)]
    _layer_norm_grad_kernel(
        (programs,), dy, x, ds, mean, rstd, weight, dx, *parts,
        s.count, s.n, *_steps(dy), *_steps(x), *_steps(ds), *_step(weight), each, float(s.n),
        ROWS=height, BLOCK=block, LOOPED=block < s.n, num_warps=num_warps,
    )  # fmt: skip
    return dx, *[add_parts(part, s.dtype).reshape(s.shape) for part in parts if part is not None]


def _matrix(s: Rows, a: Any | None) -> Any | None:
    return None if a is None else a.reshape(s.count, s.n)


def _row(s: Rows, a: Any | None) -> Any | None:
    return None if a is None else a.reshape(s.n)


def _step(a: Any | None) -> tuple[int]:
    return (0 if a is None else a.strides[0] // a.itemsize,)


def _steps(x: Any | None) -> tuple[int, ...]:
    """The strides of x in elements."""
    return (0, 0) if x is None else tuple([stride // x.itemsize for stride in x.strides])
