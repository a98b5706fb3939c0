"""Recurrent layers and their gradients on a GPU, in Numba-CUDA: the formulas of recurrent/reference.py.

Here are the kernels of a step's gates. When they are launched, and the products between them, is in gpu_layers.py.

A thread takes one column of the state in one row of the step, and all gates of it; neighbours in a warp read neighbours
in memory, a line for each gate. Beyond MOST_BLOCKS blocks it takes several, a grid apart.

    x, product, gates   row |  i: H  |  f: H  |  g: H  |  o: H  |
                               t        t        t        t         thread t

float16 and float32, computed in float32.

Traffic: that of recurrent/gpu_triton.py, in loads of 4 bytes, 2 of float16.
"""

from __future__ import annotations

import functools
from typing import Any

from numpy import float32

from tilegrad.kernels.activations import gpu_numba_math as m
from tilegrad.kernels.launch.numba_dtypes import only_served
from tilegrad.kernels.launch.numba_kernel import Kernel, kernel
from tilegrad.kernels.launch.numba_target import SIMULATED, cuda, device
from tilegrad.kernels.matmul.gpu_numba import product_into
from tilegrad.kernels.recurrent import gpu_layers as layers
from tilegrad.kernels.recurrent.steps import Sizes
from tilegrad.kernels.sizes import cdiv
from tilegrad.kernels.sum.gpu_numba import add_parts

THREADS = 16 if SIMULATED else 256
MOST_BLOCKS = 4 if SIMULATED else 1 << 20

_ONE, _ZERO = float32(1), float32(0)


@device
def _sum(x, product, row, of_all, column, width, part):
    """The argument of a gate: what the input and the state make of it."""
    column += part * width
    return float32(x[of_all, column]) + product[row, column]


@device
def _before(kept, start, row, column, before, known):
    """The state before the step: of the kept rows from `before` on, if the row is known there, else of start."""
    return float32(kept[before + row, column]) if row < known else float32(start[row, column])


@device
def _slope(s):
    """sigmoid', from its result."""
    return s * (_ONE - s)


@device
def _tanh_slope(t):
    """tanh', from its result."""
    return (_ONE - t) * (_ONE + t)


@device
def _relu_slope(dh, y):
    """Selected, not multiplied: 0 * inf does not arise."""
    return _ZERO if y <= _ZERO else dh


@device
def _times_tanh_slope(dh, y):
    return dh * _tanh_slope(y)


@device
def _none(dy, row, column):
    return _ZERO


@device
def _each(dy, row, column):
    return float32(dy[row, column])


@functools.cache
def _lstm_kernel() -> Kernel:
    @kernel
    def _lstm_kernel(x, product, c, h, y, gates, cells, first, rows):
        """x, gates: (N, 4 H), product: (B, 4 H), c, h: (B, H), cells, y: (N, H); c and h are written in place.

        The step has `rows` rows, of N from `first` on.
        """
        width = c.shape[1]
        place = cuda.grid(1)
        while place < rows * width:
            row, column = place // width, place % width
            at = first + row
            i = m.sigmoid(_sum(x, product, row, at, column, width, 0))
            f = m.sigmoid(_sum(x, product, row, at, column, width, 1))
            g = m.tanh(_sum(x, product, row, at, column, width, 2))
            o = m.sigmoid(_sum(x, product, row, at, column, width, 3))
            cell = f * c[row, column] + i * g
            out = o * m.tanh(cell)
            gates[at, column] = i
            gates[at, width + column] = f
            gates[at, 2 * width + column] = g
            gates[at, 3 * width + column] = o
            cells[at, column] = cell
            c[row, column] = cell
            y[at, column] = out
            h[row, column] = out
            place += cuda.gridsize(1)

    return _lstm_kernel


@functools.cache
def _lstm_grad_kernel(dy_of: Any) -> Kernel:
    @kernel
    def _lstm_grad_kernel(dy, dh, dc, gates, cells, c0, dx, first, rows, before, known):
        """dy: (N, H), or anything where it is none; dh, dc, c0: (B, H), cells: (N, H), gates, dx: (N, 4 H); dc is
        written in place.

        The step has `rows` rows, of N from `first` on; the first `known` of them follow those from `before` on.
        """
        width = dc.shape[1]
        place = cuda.grid(1)
        while place < rows * width:
            row, column = place // width, place % width
            at = first + row
            i, f = gates[at, column], gates[at, width + column]
            g, o = gates[at, 2 * width + column], gates[at, 3 * width + column]
            tanh = m.tanh(cells[at, column])
            slope = dh[row, column] + dy_of(dy, at, column)
            cell = dc[row, column] + slope * o * _tanh_slope(tanh)
            dx[at, column] = cell * g * _slope(i)
            dx[at, width + column] = cell * _before(cells, c0, row, column, before, known) * _slope(f)
            dx[at, 2 * width + column] = cell * i * _tanh_slope(g)
            dx[at, 3 * width + column] = slope * tanh * _slope(o)
            dc[row, column] = cell * f
            place += cuda.gridsize(1)

    return _lstm_grad_kernel


@functools.cache
def _gru_kernel() -> Kernel:
    @kernel
    def _gru_kernel(x, product, h, y, gates, first, rows):
        """x: (N, 3 H), product: (B, 3 H), q of the formula, h: (B, H), y: (N, H), gates: (N, 4 H).

        h is written in place.

        The step has `rows` rows, of N from `first` on.
        """
        width = h.shape[1]
        place = cuda.grid(1)
        while place < rows * width:
            row, column = place // width, place % width
            at = first + row
            r = m.sigmoid(_sum(x, product, row, at, column, width, 0))
            z = m.sigmoid(_sum(x, product, row, at, column, width, 1))
            q = product[row, 2 * width + column]
            new = m.tanh(float32(x[at, 2 * width + column]) + r * q)
            out = new + z * (float32(h[row, column]) - new)
            gates[at, column] = r
            gates[at, width + column] = z
            gates[at, 2 * width + column] = new
            gates[at, 3 * width + column] = q
            y[at, column] = out
            h[row, column] = out
            place += cuda.gridsize(1)

    return _gru_kernel


@functools.cache
def _gru_grad_kernel(dy_of: Any) -> Kernel:
    @kernel
    def _gru_grad_kernel(dy, product, carried, gates, y, h0, dx, dq, first, rows, before, known):
        """dy: (N, H), or anything where it is none; product, carried, h0: (B, H), y: (N, H), gates: (N, 4 H), dx, dq:
        (N, 3 H).

        dh is the sum of product and carried. carried is written in place: dh' z.

        The step has `rows` rows, of N from `first` on; the first `known` of them follow those from `before` on.
        """
        width = carried.shape[1]
        place = cuda.grid(1)
        while place < rows * width:
            row, column = place // width, place % width
            at = first + row
            r, z = gates[at, column], gates[at, width + column]
            new, q = gates[at, 2 * width + column], gates[at, 3 * width + column]
            slope = carried[row, column] + product[row, column] + dy_of(dy, at, column)
            dn = slope * (_ONE - z) * _tanh_slope(new)
            dz = slope * (_before(y, h0, row, column, before, known) - new) * _slope(z)
            dr = dn * q * _slope(r)
            dx[at, column] = dr
            dx[at, width + column] = dz
            dx[at, 2 * width + column] = dn
            dq[at, column] = dr
            dq[at, width + column] = dz
            dq[at, 2 * width + column] = dn * r
            carried[row, column] = slope * z
            place += cuda.gridsize(1)

    return _gru_grad_kernel


@functools.cache
def _rnn_kernel(activate: Any) -> Kernel:
    @kernel
    def _rnn_kernel(x, product, h, y, first, rows):
        """x, y: (N, H), product, h: (B, H); h is written. The step has `rows` rows, of N from `first` on."""
        width = h.shape[1]
        place = cuda.grid(1)
        while place < rows * width:
            row, column = place // width, place % width
            at = first + row
            out = activate(_sum(x, product, row, at, column, width, 0))
            y[at, column] = out
            h[row, column] = out
            place += cuda.gridsize(1)

    return _rnn_kernel


@functools.cache
def _rnn_grad_kernel(dy_of: Any, slope_of: Any) -> Kernel:
    @kernel
    def _rnn_grad_kernel(dy, dh, y, dx, first, rows):
        """dy: (N, H), or anything where it is none; dh: (B, H), y, dx: (N, H).

        The step has `rows` rows, of N from `first` on.
        """
        width = dh.shape[1]
        place = cuda.grid(1)
        while place < rows * width:
            row, column = place // width, place % width
            at = first + row
            dx[at, column] = slope_of(dh[row, column] + dy_of(dy, at, column), float32(y[at, column]))
            place += cuda.gridsize(1)

    return _rnn_grad_kernel


_KERNELS = {
    "lstm": _lstm_kernel,
    "lstm_grad": _lstm_grad_kernel,
    "gru": _gru_kernel,
    "gru_grad": _gru_grad_kernel,
    "rnn": _rnn_kernel,
    "rnn_grad": _rnn_grad_kernel,
}
_ACTIVATIONS = {"tanh": m.tanh, "relu": m.relu}
_SLOPES = {"tanh": _times_tanh_slope, "relu": _relu_slope}


def _gates(
    op: str, width: int, arrays: tuple[Any, ...], numbers: tuple[int, ...], nonlinearity: str | None = None
) -> None:
    """Launch the kernel of a step's gates. numbers: of the Step, as many as it takes."""
    functions = []
    backward = op.endswith("_grad")
    if backward:  # with dy first
        functions.append(_none if arrays[0] is None else _each)
        arrays = arrays[1] if arrays[0] is None else arrays[0], *arrays[1:]
    if nonlinearity is not None:
        functions.append((_SLOPES if backward else _ACTIVATIONS)[nonlinearity])
    grid = (min(cdiv(numbers[1] * width, THREADS), MOST_BLOCKS),)
    _KERNELS[op](*functions)(grid, (THREADS,), *arrays, *numbers)


_NUMBA = layers.Language(only_served, product_into, add_parts, _gates)


def lstm(x: Any, w: Any, h0: Any, c0: Any, sizes: Sizes, reverse: bool = False) -> tuple[Any, Any, Any, Any, Any]:
    """recurrent.reference.lstm."""
    return layers.lstm(_NUMBA, x, w, h0, c0, sizes, reverse)


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
    return layers.lstm_grad(_NUMBA, dy, dh, dc, w, c0, gates, cells, sizes, reverse)


def gru(x: Any, w: Any, bias: Any | None, h0: Any, sizes: Sizes, reverse: bool = False) -> tuple[Any, Any, Any]:
    """recurrent.reference.gru."""
    return layers.gru(_NUMBA, x, w, bias, h0, sizes, reverse)


def gru_grad(
    dy: Any | None, dh: Any | None, w: Any, h0: Any, y: Any, gates: Any, sizes: Sizes, reverse: bool = False
) -> tuple[Any, Any, Any]:
    """recurrent.reference.gru_grad."""
    return layers.gru_grad(_NUMBA, dy, dh, w, h0, y, gates, sizes, reverse)


def rnn(x: Any, w: Any, h0: Any, sizes: Sizes, reverse: bool = False, nonlinearity: str = "tanh") -> tuple[Any, Any]:
    """recurrent.reference.rnn."""
    return layers.rnn(_NUMBA, x, w, h0, sizes, reverse, nonlinearity)


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
    return layers.rnn_grad(_NUMBA, dy, dh, w, y, sizes, reverse, nonlinearity)
