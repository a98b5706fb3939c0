"""Recurrent layers and their gradients on a GPU, in Triton: the formulas of recurrent/reference.py.

Here are the kernels of a step's gates. When they are launched, and the products between them, is in gpu_layers.py.

One program takes ROWS rows of a step and BLOCK columns of the state's width, all gates of each:

    x, product, gates   row |  i: width  |  f: width  |  g: width  |  o: width  |
                                [ BLOCK ]    [ BLOCK ]    [ BLOCK ]    [ BLOCK ]

It reads and writes each number once, four neighbours a thread: loads of 16 bytes of float32 where 4 divides the width.
Programs are small, 256 states of 2 warps: a step is short, and what counts is that all of the GPU begins at once. Which
rows a step has is never part of a specialisation, so that a layer compiles each kernel once.

float16, bfloat16 and float32, computed in float32.

Traffic of a step of n rows, in float32:

    lstm        4 (17 n H) bytes: reads x, product, c; writes gates, cells, y, h, c
    lstm_grad   4 (14 n H): reads dy, dh, dc, gates, cells and those before; writes dx, dc
    gru         4 (13 n H): reads x, product, h; writes gates, y, h
    gru_grad    4 (15 n H): reads dy, product, carried, gates and the states before; writes dx, dq, carried
    rnn         4 (4 n H): reads x, product; writes y, h
    rnn_grad    4 (4 n H): reads dy, dh, y; writes dx

Products and states should be found in the L2 cache: the step before has written them.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from tilegrad.kernels.activations.gpu_triton import activate
from tilegrad.kernels.activations.gpu_triton_math import sigmoid as _sigmoid
from tilegrad.kernels.activations.gpu_triton_math import tanh as _tanh
from tilegrad.kernels.launch.triton_dtypes import no_float64
from tilegrad.kernels.launch.triton_kernel import kernel
from tilegrad.kernels.matmul.gpu_triton import product_into
from tilegrad.kernels.recurrent import gpu_layers as layers
from tilegrad.kernels.recurrent.steps import Sizes
from tilegrad.kernels.sizes import cdiv, next_power_of_2
from tilegrad.kernels.sum.gpu_triton import add_parts

TILE = 256  # states of a program
WIDEST = 128  # of them in a row


@triton.jit
def _tile(rows, width, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """(row (ROWS, 1), column (1, BLOCK), which of them there are) of this program."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    return row, column, (row < rows) & (column < width)


@triton.jit
def _load(ptr, row, column, inside, width, PART: tl.constexpr, PARTS: tl.constexpr):
    """A part of the rows of a dense (.., PARTS width), in float32; 0 where ptr is None."""
    if ptr is not None:
        return tl.load(ptr + ((row * PARTS + PART) * width + column), mask=inside, other=0.0).to(tl.float32)
    return tl.zeros(inside.shape, tl.float32)


@triton.jit
def _store(ptr, row, column, inside, width, value, PART: tl.constexpr, PARTS: tl.constexpr):
    place = (row * PARTS + PART) * width + column
    tl.store(ptr + place, value.to(ptr.dtype.element_ty), mask=inside)


@triton.jit
def _before(kept_ptr, start_ptr, row, column, inside, width, before, known):
    """The states before the step, in float32: kept rows from `before` on, of those that are known, else of start."""
    is_known = row < known
    kept = _load(kept_ptr, before + row, column, inside & is_known, width, 0, 1)
    return tl.where(is_known, kept, _load(start_ptr, row, column, inside & (row >= known), width, 0, 1))


@triton.jit
def _slope(s):
    """sigmoid', from its result."""
    return s * (1.0 - s)


@triton.jit
def _tanh_slope(t):
    """tanh', from its result."""
    return (1.0 - t) * (1.0 + t)


@kernel
def _lstm_kernel(
    x_ptr, product_ptr, c_ptr, h_ptr, y_ptr, gates_ptr, cells_ptr, width, first: tl.int64, rows: tl.int64,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """x, gates: (N, 4 H), product: (B, 4 H), c, h: (B, H), cells, y: (N, H), all dense; c and h are written in place.

    The step has `rows` rows, of N from `first` on.
    """
    row, column, inside = _tile(rows, width, ROWS, BLOCK)
    of_all = first + row
    i = _load(x_ptr, of_all, column, inside, width, 0, 4) + _load(product_ptr, row, column, inside, width, 0, 4)
    f = _load(x_ptr, of_all, column, inside, width, 1, 4) + _load(product_ptr, row, column, inside, width, 1, 4)
    g = _load(x_ptr, of_all, column, inside, width, 2, 4) + _load(product_ptr, row, column, inside, width, 2, 4)
    o = _load(x_ptr, of_all, column, inside, width, 3, 4) + _load(product_ptr, row, column, inside, width, 3, 4)
    i, f, g, o = _sigmoid(i), _sigmoid(f), _tanh(g), _sigmoid(o)
    c = f * _load(c_ptr, row, column, inside, width, 0, 1) + i * g
    h = o * _tanh(c)
    _store(gates_ptr, of_all, column, inside, width, i, 0, 4)
    _store(gates_ptr, of_all, column, inside, width, f, 1, 4)
    _store(gates_ptr, of_all, column, inside, width, g, 2, 4)
    _store(gates_ptr, of_all, column, inside, width, o, 3, 4)
    _store(cells_ptr, of_all, column, inside, width, c, 0, 1)
    _store(c_ptr, row, column, inside, width, c, 0, 1)
    _store(y_ptr, of_all, column, inside, width, h, 0, 1)
    _store(h_ptr, row, column, inside, width, h, 0, 1)


@kernel
def _lstm_grad_kernel(
    dy_ptr, dh_ptr, dc_ptr, gates_ptr, cells_ptr, c0_ptr, dx_ptr,
    width, first: tl.int64, rows: tl.int64, before: tl.int64, known: tl.int64,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """dy: (N, H) or None; dh, dc, c0: (B, H), cells: (N, H), gates, dx: (N, 4 H), all dense; dc is written in place.

    The step has `rows` rows, of N from `first` on; the first `known` of them follow those from `before` on.
    """
    row, column, inside = _tile(rows, width, ROWS, BLOCK)
    of_all = first + row
    dh = _load(dh_ptr, row, column, inside, width, 0, 1) + _load(dy_ptr, of_all, column, inside, width, 0, 1)
    tanh = _tanh(_load(cells_ptr, of_all, column, inside, width, 0, 1))
    o = _load(gates_ptr, of_all, column, inside, width, 3, 4)
    _store(dx_ptr, of_all, column, inside, width, dh * tanh * _slope(o), 3, 4)
    dc = _load(dc_ptr, row, column, inside, width, 0, 1) + dh * o * _tanh_slope(tanh)
    i = _load(gates_ptr, of_all, column, inside, width, 0, 4)
    f = _load(gates_ptr, of_all, column, inside, width, 1, 4)
    g = _load(gates_ptr, of_all, column, inside, width, 2, 4)
    c = _before(cells_ptr, c0_ptr, row, column, inside, width, before, known)
    _store(dx_ptr, of_all, column, inside, width, dc * g * _slope(i), 0, 4)
    _store(dx_ptr, of_all, column, inside, width, dc * c * _slope(f), 1, 4)
    _store(dx_ptr, of_all, column, inside, width, dc * i * _tanh_slope(g), 2, 4)
    _store(dc_ptr, row, column, inside, width, dc * f, 0, 1)


@kernel
def _gru_kernel(
    x_ptr, product_ptr, h_ptr, y_ptr, gates_ptr, width, first: tl.int64, rows: tl.int64,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """x: (N, 3 H), product: (B, 3 H), q of the formula, h: (B, H), y: (N, H), gates: (N, 4 H), all dense.

    h is written in place.

    The step has `rows` rows, of N from `first` on.
    """
    row, column, inside = _tile(rows, width, ROWS, BLOCK)
    of_all = first + row
    r = _load(x_ptr, of_all, column, inside, width, 0, 3) + _load(product_ptr, row, column, inside, width, 0, 3)
    z = _load(x_ptr, of_all, column, inside, width, 1, 3) + _load(product_ptr, row, column, inside, width, 1, 3)
    q = _load(product_ptr, row, column, inside, width, 2, 3)
    r, z = _sigmoid(r), _sigmoid(z)
    new = _tanh(_load(x_ptr, of_all, column, inside, width, 2, 3) + r * q)
    h = new + z * (_load(h_ptr, row, column, inside, width, 0, 1) - new)
    _store(gates_ptr, of_all, column, inside, width, r, 0, 4)
    _store(gates_ptr, of_all, column, inside, width, z, 1, 4)
    _store(gates_ptr, of_all, column, inside, width, new, 2, 4)
    _store(gates_ptr, of_all, column, inside, width, q, 3, 4)
    _store(y_ptr, of_all, column, inside, width, h, 0, 1)
    _store(h_ptr, row, column, inside, width, h, 0, 1)


@kernel
def _gru_grad_kernel(
    dy_ptr, product_ptr, carried_ptr, gates_ptr, y_ptr, h0_ptr, dx_ptr, dq_ptr,
    width, first: tl.int64, rows: tl.int64, before: tl.int64, known: tl.int64,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """dy: (N, H) or None; product, carried, h0: (B, H), y: (N, H), gates: (N, 4 H), dx, dq: (N, 3 H), all dense.

    dh is the sum of product and carried. carried is written in place: dh' z.

    The step has `rows` rows, of N from `first` on; the first `known` of them follow those from `before` on.
    """
    row, column, inside = _tile(rows, width, ROWS, BLOCK)
    of_all = first + row
    dh = _load(carried_ptr, row, column, inside, width, 0, 1) + _load(product_ptr, row, column, inside, width, 0, 1)
    dh += _load(dy_ptr, of_all, column, inside, width, 0, 1)
    r = _load(gates_ptr, of_all, column, inside, width, 0, 4)
    z = _load(gates_ptr, of_all, column, inside, width, 1, 4)
    new = _load(gates_ptr, of_all, column, inside, width, 2, 4)
    q = _load(gates_ptr, of_all, column, inside, width, 3, 4)
    h = _before(y_ptr, h0_ptr, row, column, inside, width, before, known)
    dn = dh * (1.0 - z) * _tanh_slope(new)
    dz = dh * (h - new) * _slope(z)
    dr = dn * q * _slope(r)
    _store(dx_ptr, of_all, column, inside, width, dr, 0, 3)
    _store(dx_ptr, of_all, column, inside, width, dz, 1, 3)
    _store(dx_ptr, of_all, column, inside, width, dn, 2, 3)
    _store(dq_ptr, of_all, column, inside, width, dr, 0, 3)
    _store(dq_ptr, of_all, column, inside, width, dz, 1, 3)
    _store(dq_ptr, of_all, column, inside, width, dn * r, 2, 3)
    _store(carried_ptr, row, column, inside, width, dh * z, 0, 1)


@kernel
def _rnn_kernel(
    x_ptr, product_ptr, h_ptr, y_ptr, width, first: tl.int64, rows: tl.int64,
    NONLINEARITY: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """x, y: (N, H), product, h: (B, H), all dense; h is written. The step has `rows` rows, of N from `first` on."""
    row, column, inside = _tile(rows, width, ROWS, BLOCK)
    of_all = first + row
    a = _load(x_ptr, of_all, column, inside, width, 0, 1) + _load(product_ptr, row, column, inside, width, 0, 1)
    h = activate(a, 0.0, NONLINEARITY)
    _store(y_ptr, of_all, column, inside, width, h, 0, 1)
    _store(h_ptr, row, column, inside, width, h, 0, 1)


@kernel
def _rnn_grad_kernel(
    dy_ptr, dh_ptr, y_ptr, dx_ptr, width, first: tl.int64, rows: tl.int64,
    NONLINEARITY: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """dy: (N, H) or None; dh: (B, H), y, dx: (N, H), all dense. The step has `rows` rows, of N from `first` on."""
    row, column, inside = _tile(rows, width, ROWS, BLOCK)
    of_all = first + row
    dh = _load(dh_ptr, row, column, inside, width, 0, 1) + _load(dy_ptr, of_all, column, inside, width, 0, 1)
    y = _load(y_ptr, of_all, column, inside, width, 0, 1)
    if NONLINEARITY == "tanh":
        dx = dh * _tanh_slope(y)
    else:
        dx = tl.where(y <= 0, 0.0, dh)  # selected, not multiplied: 0 * inf does not arise
    _store(dx_ptr, of_all, column, inside, width, dx, 0, 1)


_KERNELS = {
    "lstm": _lstm_kernel,
    "lstm_grad": _lstm_grad_kernel,
    "gru": _gru_kernel,
    "gru_grad": _gru_grad_kernel,
    "rnn": _rnn_kernel,
    "rnn_grad": _rnn_grad_kernel,
}


def _gates(
    op: str, width: int, arrays: tuple[Any, ...], numbers: tuple[int, ...], nonlinearity: str | None = None
) -> None:
    """Launch the kernel of a step's gates. numbers: of the Step, as many as it takes."""
    block = min(WIDEST, next_power_of_2(width))
    height = TILE // block
    grid = cdiv(numbers[1], height), cdiv(width, block)
    options: dict[str, Any] = {} if nonlinearity is None else {"NONLINEARITY": nonlinearity}
    _KERNELS[op](grid, *arrays, width, *numbers, ROWS=height, BLOCK=block, num_warps=2, **options)


_TRITON = layers.Language(no_float64, product_into, add_parts, _gates)


def lstm(x: Any, w: Any, h0: Any, c0: Any, sizes: Sizes, reverse: bool = False) -> tuple[Any, Any, Any, Any, Any]:
    """recurrent.reference.lstm."""
    return layers.lstm(_TRITON, x, w, h0, c0, sizes, reverse)


def lstm_grad(
    dy: Any | None,
    dh: Any | None,
    dc: Any | None,
    w: Any,
    c0: Any,
    gates: Any,
    cells: Any,
    sizes: Sizes,
    reverse: bool = False,
) -> tuple[Any, Any, Any]:
    """recurrent.reference.lstm_grad."""
    return layers.lstm_grad(_TRITON, dy, dh, dc, w, c0, gates, cells, sizes, reverse)


def gru(x: Any, w: Any, bias: Any | None, h0: Any, sizes: Sizes, reverse: bool = False) -> tuple[Any, Any, Any]:
    """recurrent.reference.gru."""
    return layers.gru(_TRITON, x, w, bias, h0, sizes, reverse)


def gru_grad(
    dy: Any | None, dh: Any | None, w: Any, h0: Any, y: Any, gates: Any, sizes: Sizes, reverse: bool = False
) -> tuple[Any, Any, Any]:
    """recurrent.reference.gru_grad."""
    return layers.gru_grad(_TRITON, dy, dh, w, h0, y, gates, sizes, reverse)


def rnn(x: Any, w: Any, h0: Any, sizes: Sizes, reverse: bool = False, nonlinearity: str = "tanh") -> tuple[Any, Any]:
    """recurrent.reference.rnn."""
    return layers.rnn(_TRITON, x, w, h0, sizes, reverse, nonlinearity)


def rnn_grad(
    dy: Any | None,
    dh: Any | None,
    w: Any,
    y: Any,
    sizes: Sizes,
    reverse: bool = False,
    nonlinearity: str = "tanh",
) -> tuple[Any, Any]:
    """recurrent.reference.rnn_grad."""
    return layers.rnn_grad(_TRITON, dy, dh, w, y, sizes, reverse, nonlinearity)
