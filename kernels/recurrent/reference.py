"""Recurrent layers over whole sequences, with their gradients: the NumPy specification.

A layer goes over its steps t with a state h, and adds to each step's input what its weight makes of the state:

    lstm   i, f, g, o = sigmoid, sigmoid, tanh, sigmoid of a,   a = x_t + h w^T
           c' = f c + i g,   h' = o tanh(c')                           (Hochreiter & Schmidhuber 1997; Gers et al. 2000)
    gru    q = h w^T + b,   r, z = sigmoid(x_t + q) of their parts,   n = tanh(x_t + r q) of the third
           h' = n + z (h - n)                                          (Cho et al. 2014, with r behind the product)
    rnn    h' = tanh or relu of x_t + h w^T                            (Elman 1990)

Gates lie beside one another in the order of their names, as in PyTorch. x, the inputs' part, is computed for all steps
before, as one product, with the biases that can be added to it.

Sequences of several lengths lie without gaps, as PyTorch packs them: those of step 0, then those of step 1, and so on,
the longest sequence first. sizes says how many rows each step has, so row b of a step belongs to sequence b. All equal
sizes are a plain batch (T, B). `reverse` goes from the last step to the first: a sequence begins at its own last step.

For all of them, N the rows of all steps, B those of the first, H the width of the state, G gates:

    x       (N, G H);  w (G H, H);  h0, c0 (B, H): the states before the first step; any strides
    sizes   a tuple of ints, not rising, whose sum is N; at least one
    ->      y (N, H), h' of each row's step; h, c (B, H), the states after each sequence's last step
    gates   (N, G H), what the gradient needs, of the accumulator's dtype; cells (N, H), c' of each row's step

float16, bfloat16, float32 or float64, one dtype for all; the 16-bit types are computed in float32. Of them y, and with
it the state h, is rounded at each step, c only as a result; gates and cells are float32. Results are in C order.

Gradients take None for a gradient that is 0. They give those of x, h0 (and c0); that of w is a product of what is
returned here with the states before each step (steps.states_before), for all steps at once. Of 16-bit types a step's
gradient by what its weight made is rounded before it is multiplied with w.

Floor: 2 N G H^2 FLOP forward, as many backward. The T steps wait for one another, and each reads w: it should stay in a
cache.

Each raises TypeError for dtypes, ValueError for shapes and sizes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tilegrad.kernels.checks import accumulator, float_dtype, is_int, one_of, remembered, require
from tilegrad.kernels.recurrent.steps import Sizes, steps_of

_quiet = np.errstate(over="ignore", under="ignore", invalid="ignore", divide="ignore")

Array = np.ndarray
NONLINEARITIES = ("tanh", "relu")


@_quiet
def lstm(
    x: Array, w: Array, h0: Array, c0: Array, sizes: Sizes, reverse: bool = False
) -> tuple[Array, Array, Array, Array, Array]:
    """(y, h, c, gates, cells) of an LSTM; gates (N, 4 H) are i, f, g, o after their functions.

    Traffic: reads x, writes y, gates and cells: 4 (10 N H) bytes in float32; w once, then from a cache.
    """
    dtype, width = check_lstm("lstm", x, w, h0, c0, sizes)
    x, w_t, h, c = _wide(x), _wide(w).T, _state(h0), _state(c0)
    y, gates, cells = np.empty((len(x), width), dtype), np.empty((len(x), 4 * width), h.dtype), _rows(x, width)
    for first, n, _, _ in steps_of(sizes, bool(reverse)):
        rows = slice(first, first + n)
        a = x[rows] + h[:n] @ w_t
        i, f, g, o = _parts(a, 4)
        i, f, g, o = _sigmoid(i), _sigmoid(f), np.tanh(g), _sigmoid(o)
        c[:n] = cells[rows] = f * c[:n] + i * g
        y[rows] = o * np.tanh(c[:n])
        h[:n] = y[rows]
        gates[rows] = np.concatenate((i, f, g, o), 1)
    return y, h.astype(dtype, copy=False), c.astype(dtype, copy=False), gates, cells


@_quiet
def lstm_grad(
    dy: Array | None,
    dh: Array | None,
    dc: Array | None,
    w: Array,
    c0: Array,
    gates: Array,
    cells: Array,
    sizes: Sizes,
    reverse: bool = False,
) -> tuple[Array, Array, Array]:
    """(dx, dh0, dc0) of lstm; dx (N, 4 H) is also what w's gradient is made of: dw = dx^T (states before).

        dh' = dy + dh,   dc' = dc + dh' o (1 - tanh(c')^2)
        da = (dc' g i (1 - i), dc' c f (1 - f), dc' i (1 - g^2), dh' tanh(c') o (1 - o)),   dc = dc' f,   dh = da w

    dy, dh, dc  the gradients of y, h and c, of w's dtype
    gates, cells  as lstm gave them

    Traffic: reads dy, gates and cells, writes dx: 4 (10 N H) bytes in float32; w once, then from a cache.
    """
    dtype, width = check_lstm_grad(dy, dh, dc, w, c0, gates, cells, sizes)
    kind = gates.dtype
    wide, c0 = _wide(w), c0.astype(kind, copy=False)
    dx = np.empty(gates.shape, dtype)
    dh, dc = _gradient(dh, c0), _gradient(dc, c0)
    for first, n, before, known in reversed(steps_of(sizes, bool(reverse))):
        rows = slice(first, first + n)
        i, f, g, o = _parts(gates[rows], 4)
        tanh = np.tanh(cells[rows])
        c = np.concatenate((cells[before : before + known], c0[known:n]))
        if dy is not None:
            dh[:n] += dy[rows]
        dc[:n] += dh[:n] * o * (1 - tanh) * (1 + tanh)
        i_, f_, o_ = (each * (1 - each) for each in (i, f, o))
        g_ = (1 - g) * (1 + g)
        dx[rows] = np.concatenate((dc[:n] * g * i_, dc[:n] * c * f_, dc[:n] * i * g_, dh[:n] * tanh * o_), 1)
        dc[:n] *= f
        dh[:n] = dx[rows].astype(kind, copy=False) @ wide
    return dx, dh.astype(dtype, copy=False), dc.astype(dtype, copy=False)


@_quiet
def gru(
    x: Array, w: Array, bias: Array | None, h0: Array, sizes: Sizes, reverse: bool = False
) -> tuple[Array, Array, Array]:
    """(y, h, gates) of a GRU; gates (N, 4 H) are r, z, n after their functions, and n's part of q.

    bias  (3 H,), b of the formula, or None, which is 0

    Traffic: reads x, writes y and gates: 4 (8 N H) bytes in float32; w once, then from a cache.
    """
    dtype, width = check_gru("gru", x, w, bias, h0, sizes)
    x, w_t, h = _wide(x), _wide(w).T, _state(h0)
    y, gates = np.empty((len(x), width), dtype), np.empty((len(x), 4 * width), h.dtype)
    for first, n, _, _ in steps_of(sizes, bool(reverse)):
        rows = slice(first, first + n)
        q = h[:n] @ w_t
        if bias is not None:
            q += bias.astype(q.dtype, copy=False)
        (x_r, x_z, x_n), (q_r, q_z, q_n) = _parts(x[rows], 3), _parts(q, 3)
        r, z = _sigmoid(x_r + q_r), _sigmoid(x_z + q_z)
        new = np.tanh(x_n + r * q_n)
        y[rows] = new + z * (h[:n] - new)
        h[:n] = y[rows]
        gates[rows] = np.concatenate((r, z, new, q_n), 1)
    return y, h.astype(dtype, copy=False), gates


@_quiet
def gru_grad(
    dy: Array | None,
    dh: Array | None,
    w: Array,
    h0: Array,
    y: Array,
    gates: Array,
    sizes: Sizes,
    reverse: bool = False,
) -> tuple[Array, Array, Array]:
    """(dx, dq, dh0) of gru; dq (N, 3 H) is what the gradients of w and b are made of: dw = dq^T (states before).

        dh' = dy + dh,   dn = dh' (1 - z) (1 - n^2),   dz = dh' (h - n) z (1 - z),   dr = dn q_n r (1 - r)
        dx = (dr, dz, dn),   dq = (dr, dz, dn r),   dh = dh' z + dq w

    dy, dh    the gradients of y and h, of w's dtype
    y, gates  as gru gave them

    Traffic: reads dy, y and gates, writes dx and dq: 4 (12 N H) bytes in float32; w once, then from a cache.
    """
    dtype, width = check_gru_grad(dy, dh, w, h0, y, gates, sizes)
    kind = gates.dtype
    wide, h0 = _wide(w), h0.astype(kind, copy=False)
    dx, dq = np.empty((len(y), 3 * width), dtype), np.empty((len(y), 3 * width), dtype)
    dh = _gradient(dh, h0)
    for first, n, before, known in reversed(steps_of(sizes, bool(reverse))):
        rows = slice(first, first + n)
        r, z, new, q_n = _parts(gates[rows], 4)
        h = np.concatenate((y[before : before + known].astype(kind, copy=False), h0[known:n]))
        if dy is not None:
            dh[:n] += dy[rows]
        dn = dh[:n] * (1 - z) * (1 - new) * (1 + new)
        dz = dh[:n] * (h - new) * z * (1 - z)
        dr = dn * q_n * r * (1 - r)
        dx[rows] = np.concatenate((dr, dz, dn), 1)
        dq[rows] = np.concatenate((dr, dz, dn * r), 1)
        dh[:n] = dh[:n] * z + dq[rows].astype(kind, copy=False) @ wide
    return dx, dq, dh.astype(dtype, copy=False)


@_quiet
def rnn(
    x: Array, w: Array, h0: Array, sizes: Sizes, reverse: bool = False, nonlinearity: str = "tanh"
) -> tuple[Array, Array]:
    """(y, h) of a plain recurrent layer; nonlinearity "tanh" or "relu".

    Traffic: reads x, writes y: 4 (2 N H) bytes in float32; w once, then from a cache.
    """
    dtype, width = check_rnn("rnn", x, w, h0, sizes, nonlinearity)
    x, w_t, h = _wide(x), _wide(w).T, _state(h0)
    y = np.empty((len(x), width), dtype)
    for first, n, _, _ in steps_of(sizes, bool(reverse)):
        a = x[first : first + n] + h[:n] @ w_t
        y[first : first + n] = np.tanh(a) if nonlinearity == "tanh" else np.maximum(a, 0)
        h[:n] = y[first : first + n]
    return y, h.astype(dtype, copy=False)


@_quiet
def rnn_grad(
    dy: Array | None,
    dh: Array | None,
    w: Array,
    y: Array,
    sizes: Sizes,
    reverse: bool = False,
    nonlinearity: str = "tanh",
) -> tuple[Array, Array]:
    """(dx, dh0) of rnn; dx (N, H) is also what w's gradient is made of: dw = dx^T (states before).

        dx = (dy + dh) (1 - y^2), or where y > 0,   dh = dx w

    Traffic: reads dy and y, writes dx: 4 (3 N H) bytes in float32; w once, then from a cache.
    """
    dtype, width = check_rnn_grad(dy, dh, w, y, sizes, nonlinearity)
    wide = _wide(w)
    dx = np.empty(y.shape, dtype)
    dh = _gradient(dh, np.empty((sizes[0], width), wide.dtype))
    for first, n, _, _ in reversed(steps_of(sizes, bool(reverse))):
        rows = slice(first, first + n)
        out = _wide(y[rows])
        if dy is not None:
            dh[:n] += dy[rows]
        dx[rows] = dh[:n] * (1 - out) * (1 + out) if nonlinearity == "tanh" else np.where(out <= 0, 0, dh[:n])
        dh[:n] = dx[rows].astype(wide.dtype, copy=False) @ wide
    return dx, dh.astype(dtype, copy=False)


# --- checks, for arrays of any library


def check_lstm(op: str, x: Any, w: Any, h0: Any, c0: Any, sizes: Any) -> tuple[np.dtype, int]:
    """Raise as lstm does; (the dtype, H)."""
    dtype = float_dtype(op, x=x, w=w, h0=h0, c0=c0)
    width = _width(op, w.shape, 4)
    _require(op, sizes, width, x=(x, 4 * width), of_states={"h0": h0, "c0": c0})
    return dtype, width


def check_lstm_grad(
    dy: Any, dh: Any, dc: Any, w: Any, c0: Any, gates: Any, cells: Any, sizes: Any
) -> tuple[np.dtype, int]:
    """Raise as lstm_grad does; (the dtype, H)."""
    op = "lstm_grad"
    dtype = float_dtype(op, w=w, c0=c0, dy=dy, dh=dh, dc=dc)
    width = _width(op, w.shape, 4)
    _require_kept(op, dtype, gates=gates, cells=cells)
    of_states = {"c0": c0, "dh": dh, "dc": dc}
    _require(op, sizes, width, gates=(gates, 4 * width), cells=(cells, width), dy=(dy, width), of_states=of_states)
    return dtype, width


def check_gru(op: str, x: Any, w: Any, bias: Any, h0: Any, sizes: Any) -> tuple[np.dtype, int]:
    """Raise as gru does; (the dtype, H)."""
    dtype = float_dtype(op, x=x, w=w, bias=bias, h0=h0)
    width = _width(op, w.shape, 3)
    if bias is not None:
        require(bias.shape == (3 * width,), op, f"bias is {bias.shape}; expected ({3 * width},)")
    _require(op, sizes, width, x=(x, 3 * width), of_states={"h0": h0})
    return dtype, width


def check_gru_grad(dy: Any, dh: Any, w: Any, h0: Any, y: Any, gates: Any, sizes: Any) -> tuple[np.dtype, int]:
    """Raise as gru_grad does; (the dtype, H)."""
    op = "gru_grad"
    dtype = float_dtype(op, w=w, h0=h0, y=y, dy=dy, dh=dh)
    width = _width(op, w.shape, 3)
    _require_kept(op, dtype, gates=gates)
    of_states = {"h0": h0, "dh": dh}
    _require(op, sizes, width, y=(y, width), gates=(gates, 4 * width), dy=(dy, width), of_states=of_states)
    return dtype, width


def check_rnn(op: str, x: Any, w: Any, h0: Any, sizes: Any, nonlinearity: Any) -> tuple[np.dtype, int]:
    """Raise as rnn does; (the dtype, H)."""
    one_of(op, "nonlinearity", nonlinearity, NONLINEARITIES)
    dtype = float_dtype(op, x=x, w=w, h0=h0)
    width = _width(op, w.shape, 1)
    _require(op, sizes, width, x=(x, width), of_states={"h0": h0})
    return dtype, width


def check_rnn_grad(dy: Any, dh: Any, w: Any, y: Any, sizes: Any, nonlinearity: Any) -> tuple[np.dtype, int]:
    """Raise as rnn_grad does; (the dtype, H)."""
    op = "rnn_grad"
    one_of(op, "nonlinearity", nonlinearity, NONLINEARITIES)
    dtype = float_dtype(op, w=w, y=y, dy=dy, dh=dh)
    width = _width(op, w.shape, 1)
    _require(op, sizes, width, y=(y, width), dy=(dy, width), of_states={"dh": dh})
    return dtype, width


@remembered
def _width(op: str, w: tuple[int, ...], gates: int) -> int:
    fits = len(w) == 2 and w[0] == gates * w[1] and w[1] > 0
    require(fits, op, f"w is {w}; expected ({f'{gates} H' if gates > 1 else 'H'}, H), H > 0")
    return w[1]


def _require(op: str, sizes: Any, width: int, of_states: dict[str, Any], **of_rows: Any) -> None:
    """of_rows: arrays (N, columns), with their columns; of_states: arrays (B, H). None is left out."""
    rows = _rows_of(op, sizes)
    for name, (array, columns) in of_rows.items():
        if array is not None:
            require(array.shape == (rows, columns), op, f"{name} is {array.shape}; expected {(rows, columns)}")
    for name, array in of_states.items():
        if array is not None:
            expected = sizes[0], width
            require(array.shape == expected, op, f"{name} is {array.shape}; expected {expected}")


@remembered
def _rows_of(op: str, sizes: Any) -> int:
    if not isinstance(sizes, tuple) or not all(map(is_int, sizes)):
        raise TypeError(f"{op}: sizes is {_shown(sizes)}; expected a tuple of ints")
    falls = len(sizes) > 0 and min(sizes) >= 0 and all(a >= b for a, b in zip(sizes, sizes[1:]))
    require(falls, op, f"sizes is {_shown(sizes)}; expected at least one, not negative, none above the one before")
    return sum(sizes)


def _shown(sizes: Any) -> str:
    text = repr(sizes)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _require_kept(op: str, dtype: np.dtype, **kept: Any) -> None:
    for name, array in kept.items():
        if array.dtype != accumulator(dtype):
            raise TypeError(f"{op}: {name} is {array.dtype}; expected {accumulator(dtype)}")


# --- pieces of the formulas


def _wide(a: Array) -> Array:
    return a.astype(accumulator(a.dtype), copy=False)


def _state(a: Array) -> Array:
    """A copy, in the accumulator's dtype."""
    return a.astype(accumulator(a.dtype), order="C")


def _gradient(a: Array | None, like: Array) -> Array:
    """A copy in like's dtype; zeros of its shape for None."""
    return np.zeros(like.shape, like.dtype) if a is None else a.astype(like.dtype, order="C")


def _rows(x: Array, width: int) -> Array:
    return np.empty((len(x), width), x.dtype)


def _parts(a: Array, count: int) -> list[Array]:
    return np.split(a, count, 1)


def _sigmoid(a: Array) -> Array:
    e = np.exp(-np.abs(a))
    return np.where(a > 0, 1, e) / (1 + e)
