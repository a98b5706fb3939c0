"""Softmax and its logarithm along one axis, with their gradients, on a GPU, in Triton: softmax/reference.py's formulas.

The array is seen as (outer, inner, n): n is the axis, the axes that vary more slowly in memory are merged into `outer`,
those that vary faster into `inner`. One program takes ROWS rows, neighbours in memory, of one `outer`:

    one pass    the rows stay in registers between the reduction and the result: up to 32k columns forward, 16k for a
                gradient, which keeps two rows. 32k floats are half of an SM's registers; beyond 16k the exponentials
                are not kept beside them but computed again
    looped      longer rows are read twice, blockwise: once for the running maximum and sum (Milakov & Gimelshein
                2018, "Online normalizer calculation for softmax"), once for the result

Arrays of any strides are read in place if all axes but one merge into two. This is so for every array without holes,
every matrix and every slice of three axes; others are copied first. The result has its argument's memory order.

Tiles: 16 elements a thread keep four 16-byte loads of floats (two of halves) in flight. A program has 16 warps at most,
with 128 registers a thread; longer rows are up to 64 elements a thread. Rows of up to 1024 columns share a program.
Where the axis is not the innermost, a program takes 32 rows, so that a warp's load is one line of memory.

float16, bfloat16 and float32, computed in float32.

Traffic: a forward reads and writes each element once, a gradient reads two arrays and writes one; looped rows are read
twice. The floor is that over the bandwidth: forward 8 B an element in float32, 4 B in halves; gradient 12 and 6.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import triton
import triton.language as tl

from tilegrad.kernels.activations.gpu_triton_math import exp
from tilegrad.kernels.device.dense import dense, dense_as, empty_like
from tilegrad.kernels.launch.triton_dtypes import no_float64
from tilegrad.kernels.launch.triton_kernel import kernel
from tilegrad.kernels.sizes import cdiv, next_power_of_2
from tilegrad.kernels.softmax.reference import check_softmax

ONE_PASS = 32768  # elements of a tile that stays in registers
ONE_PASS_GRAD = 16384  # of each of two
_SMALL = 2048  # elements of the smallest full tile: 4 warps
_LOOPED = 16384  # elements of a looped tile
_LINE = 32  # rows side by side in memory

_KEPT: tl.constexpr = tl.constexpr(16384)  # elements of a tile whose exponentials are kept, not computed twice


class Tile(NamedTuple):
    rows: int
    block: int
    num_warps: int


def tile(rows: int, columns: int, across: bool, most: int, otherwise: int) -> Tile:
    """Whole rows of at most `most` elements, rounded up to powers of two, or `otherwise` elements of longer ones.

    across   whether neighbours in memory are neighbouring rows, not columns
    """
    block = next_power_of_2(columns)
    height = min(max(_SMALL // block, _LINE if across else 1), next_power_of_2(rows))
    if height * block > most:
        block = otherwise // height
    return Tile(height, block, min(16, max(1, height * block // 512)))


@triton.jit
def shift_of(m):
    """What is subtracted from logits whose maximum so far is m: 0 while all were -inf, so that none becomes NaN."""
    return tl.where(m == float("-inf"), 0.0, m)


@triton.jit
def _rows(inner, ROWS: tl.constexpr):
    """The rows of this program: (outer, the rows within it), in 64 bits."""
    tiles = tl.cdiv(inner, ROWS)
    program = tl.program_id(0)
    return (program // tiles).to(tl.int64), (program % tiles).to(tl.int64) * ROWS + tl.arange(0, ROWS)


@triton.jit
def _load(row_ptr, row_inside, start, n, stride, other, BLOCK: tl.constexpr):
    """(ROWS, BLOCK) float32, of the columns from `start` on; `other` beyond n."""
    column = start + tl.arange(0, BLOCK)
    inside = row_inside[:, None] & (column < n)[None, :]
    return tl.load(row_ptr[:, None] + (column.to(tl.int64) * stride)[None, :], mask=inside, other=other).to(tl.float32)


@triton.jit
def _store(row_ptr, row_inside, start, n, stride, value, BLOCK: tl.constexpr):
    column = start + tl.arange(0, BLOCK)
    inside = row_inside[:, None] & (column < n)[None, :]
    value = value.to(row_ptr.dtype.element_ty)
    tl.store(row_ptr[:, None] + (column.to(tl.int64) * stride)[None, :], value, mask=inside)


@triton.jit
def _probabilities(shifted, total, LOG: tl.constexpr):
    """The result for x - m and sum exp(x - m)."""
    return shifted - tl.log(total)[:, None] if LOG else exp(shifted) * (1.0 / total)[:, None]


@triton.jit
def _term(dy, y, LOG: tl.constexpr):
    """What the gradient sums over a row.

    Contracted with the sum over lanes, a lane's product would be exact and its neighbour's rounded, and lanes of a row
    would have sums that differ. So it is rounded by an instruction of its own.
    """
    return dy if LOG else tl.fma(dy, y, tl.zeros_like(y))


@triton.jit
def _slope(dy, y, total, LOG: tl.constexpr):
    """The gradient, from the sum of those terms."""
    return dy - tl.exp(y) * total[:, None] if LOG else y * (dy - total[:, None])


@kernel
def _softmax_kernel(
    x_ptr,
    y_ptr,
    inner,
    n,
    x_outer,
    x_inner,
    x_column,
    y_outer,
    y_inner,
    y_column,
    LOG: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    LOOPED: tl.constexpr,
):
    """x, y: (outer, inner, n), each with its strides, in elements."""
    outer, row = _rows(inner, ROWS)
    inside = row < inner
    x_row = x_ptr + outer * x_outer + row * x_inner
    y_row = y_ptr + outer * y_outer + row * y_inner
    if LOOPED:
        m = tl.full([ROWS], float("-inf"), tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        for start in range(0, n, BLOCK):
            x = _load(x_row, inside, start, n, x_column, float("-inf"), BLOCK)
            before = m
            m = tl.maximum(m, tl.max(x, 1))
            shift = shift_of(m)
            total = total * tl.exp(before - shift) + tl.sum(tl.exp(x - shift[:, None]), 1)
        for start in range(0, n, BLOCK):
            x = _load(x_row, inside, start, n, x_column, float("-inf"), BLOCK)
            y = _probabilities(x - m[:, None], total, LOG)
            _store(y_row, inside, start, n, y_column, y, BLOCK)
    else:
        x = _load(x_row, inside, 0, n, x_column, float("-inf"), BLOCK)
        shifted = x - tl.max(x, 1)[:, None]
        if LOG or ROWS * BLOCK > _KEPT:  # x alone fits into registers
            y = _probabilities(shifted, tl.sum(tl.exp(shifted), 1), LOG)
        else:
            e = exp(shifted)
            y = e * (1.0 / tl.sum(e, 1))[:, None]
        _store(y_row, inside, 0, n, y_column, y, BLOCK)


@kernel
def _softmax_grad_kernel(
    dy_ptr,
    y_ptr,
    dx_ptr,
    inner,
    n,
    dy_outer,
    dy_inner,
    dy_column,
    y_outer,
    y_inner,
    y_column,
    dx_outer,
    dx_inner,
    dx_column,
    LOG: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    LOOPED: tl.constexpr,
):
    """dy, y, dx: (outer, inner, n), each with its strides, in elements."""
    outer, row = _rows(inner, ROWS)
    inside = row < inner
    dy_row = dy_ptr + outer * dy_outer + row * dy_inner
    y_row = y_ptr + outer * y_outer + row * y_inner
    dx_row = dx_ptr + outer * dx_outer + row * dx_inner
    if LOOPED:
        total = tl.zeros([ROWS], tl.float32)
        for start in range(0, n, BLOCK):
            dy = _load(dy_row, inside, start, n, dy_column, 0.0, BLOCK)
            y = dy if LOG else _load(y_row, inside, start, n, y_column, 0.0, BLOCK)
            total += tl.sum(_term(dy, y, LOG), 1)
        for start in range(0, n, BLOCK):
            dy = _load(dy_row, inside, start, n, dy_column, 0.0, BLOCK)
            y = _load(y_row, inside, start, n, y_column, 0.0, BLOCK)
            _store(dx_row, inside, start, n, dx_column, _slope(dy, y, total, LOG), BLOCK)
    else:
        dy = _load(dy_row, inside, 0, n, dy_column, 0.0, BLOCK)
        y = _load(y_row, inside, 0, n, y_column, 0.0, BLOCK)
        total = tl.sum(_term(dy, y, LOG), 1)
        _store(dx_row, inside, 0, n, dx_column, _slope(dy, y, total, LOG), BLOCK)


def softmax(x: Any, axis: int = -1) -> Any:
    """y_i = exp(x_i - m) / sum_j exp(x_j - m), m = max_j x_j."""
    return _forward("softmax", x, axis, False)


def softmax_grad(dy: Any, y: Any, axis: int = -1) -> Any:
    """dx_i = y_i (dy_i - sum_j dy_j y_j), from softmax's result."""
    return _backward("softmax_grad", dy, y, axis, False)


def log_softmax(x: Any, axis: int = -1) -> Any:
    """y_i = (x_i - m) - log sum_j exp(x_j - m), m = max_j x_j."""
    return _forward("log_softmax", x, axis, True)


def log_softmax_grad(dy: Any, y: Any, axis: int = -1) -> Any:
    """dx_i = dy_i - exp(y_i) sum_j dy_j, from log_softmax's result."""
    return _backward("log_softmax_grad", dy, y, axis, True)


def _forward(op: str, x: Any, axis: int, log: bool) -> Any:
    no_float64(op, check_softmax(op, axis, x=x))
    y = empty_like(x)
    plan = _plan(x.shape, axis, x.itemsize, ONE_PASS, x.strides, y.strides)
    if plan is None:
        x = dense(x)
        plan = _plan(x.shape, axis, x.itemsize, ONE_PASS, x.strides, y.strides)
    _softmax_kernel(plan.grid, x, y, *plan.sizes, LOG=log, **plan.config)
    return y


def _backward(op: str, dy: Any, y: Any, axis: int, log: bool) -> Any:
    no_float64(op, check_softmax(op, axis, dy=dy, y=y))
    dx = empty_like(y)
    plan = _plan(y.shape, axis, y.itemsize, ONE_PASS_GRAD, dy.strides, y.strides, dx.strides)
    if plan is None:
        y = dense(y)
        dy = dense_as(dy, y)
        plan = _plan(y.shape, axis, y.itemsize, ONE_PASS_GRAD, dy.strides, y.strides, dx.strides)
    _softmax_grad_kernel(plan.grid, dy, y, dx, *plan.sizes, LOG=log, **plan.config)
    return dx


class _Plan(NamedTuple):
    """How arrays of one shape are walked: decided once, since every training step asks for the same few shapes."""

    grid: tuple[int]
    sizes: tuple[int, ...]  # inner, n, then (outer, inner, column) strides of each array
    config: dict[str, Any]  # of the kernel


@lru_cache(maxsize=1024)
def _plan(shape: tuple[int, ...], axis: int, itemsize: int, most: int, *strides: tuple[int, ...]) -> _Plan | None:
    """The plan for arrays of these strides (in bytes; the result's last), or None if they are not (outer, inner, n)."""
    axis %= len(shape)
    n = shape[axis]
    steps = [tuple(each[i] // itemsize for each in strides) for i in range(len(shape))]  # by axis, then by array
    others = [i for i in range(len(shape)) if i != axis and shape[i] != 1]
    groups = [(1, (0,) * len(strides))] * 2
    for i in sorted(others, key=lambda i: -abs(steps[i][-1])):
        length, step = groups[-1]
        if step == tuple(each * shape[i] for each in steps[i]):
            groups[-1] = length * shape[i], steps[i]
        else:
            groups.append((shape[i], steps[i]))
    (outer, outer_steps), (inner, inner_steps) = groups[-2:]
    if any(length != 1 for length, _ in groups[:-2]):
        return None
    rows, block, num_warps = tile(inner, n, 1 < n and inner_steps[-1] < steps[axis][-1] and inner > 1, most, _LOOPED)
    sizes = [inner, n]
    for each in zip(outer_steps, inner_steps, steps[axis], strict=True):
        sizes += each
    config = {"ROWS": rows, "BLOCK": block, "LOOPED": block < n, "num_warps": num_warps}
    return _Plan((outer * cdiv(inner, rows) if n else 0,), (*sizes,), config)
