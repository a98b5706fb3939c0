"""What recurrent layers launch on a GPU, step by step, in either language (recurrent/reference.py has the formulas).

A step is two launches, one after the other: the product of the state with w, and a kernel of its gates, which reads the
product and all else of the step, and writes all of it.

    forward     product = h w^T (+ b)     ->  gates, cells, y and the state h of the step
    backward    gates of the step         ->  dx (dq);    dh = dx w

States are buffers (B, H). The rows of a step are the first of the batch, however long its sequences are, in either
direction. So a step works on the first rows of the buffers. It leaves the others as they are: their sequences have
ended, or have not begun. Products and states are float32, but for h, which is an operand.

The backward product goes into the state dh itself. That of a GRU is only a part of it, dh = dh' z + dq w. So a GRU has
two buffers, and the state is their sum, which the next step's kernel takes.

Nothing waits for the device. No memory is taken within a step, unless its product is cut into parts
(matmul/gpu_triton.py), as one of few rows and a long sum is; adding these is a third launch.

Not built: a step as one launch, whose programs sum the product for their own gates. It would save a launch and the
product's way through the L2 cache, and lose the tiles and the parts of matmul. For which sizes it pays has to be
measured on a GPU.

Traffic: a step reads w, which should come from the L2 cache, and its product writes 4 n G H bytes for n rows. What a
kernel of gates moves is at the head of gpu_triton.py. Where n H is small, the two launches of a step are what it costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from tilegrad.kernels.device import gpu
from tilegrad.kernels.recurrent.reference import (
    check_gru,
    check_gru_grad,
    check_lstm,
    check_lstm_grad,
    check_rnn,
    check_rnn_grad,
)
from tilegrad.kernels.recurrent.steps import Sizes, Step, steps_of


class Language(NamedTuple):
    """What the layers need of a kernel language."""

    served: Callable[[str, np.dtype], np.dtype]  # the dtype; TypeError for one that is not served
    product: Callable[..., Callable[[], Any]]  # (y, a, b, bias): what computes y = a @ b + bias
    add: Callable[[Any, Any], Any]  # (parts, dtype): the sum over the rows of parts
    gates: Callable[..., None]  # (primitive, width, arrays, numbers of the step, nonlinearity): its kernel is launched


def lstm(language: Language, x: Any, w: Any, h0: Any, c0: Any, sizes: Sizes, reverse: bool) -> tuple[Any, ...]:
    """recurrent.reference.lstm."""
    dtype, width = check_lstm("lstm", x, w, h0, c0, sizes)
    language.served("lstm", dtype)
    xp, rows = gpu.xp(), x.shape[0]
    x, h, c = xp.ascontiguousarray(x), _copied(h0, dtype), _copied(c0, np.float32)
    product = xp.empty((sizes[0], 4 * width), np.float32)
    y, gates = xp.empty((rows, width), dtype), xp.empty((rows, 4 * width), np.float32)
    cells = xp.empty((rows, width), np.float32)
    for step, multiply in _forward(sizes, bool(reverse), lambda n: language.product(product[:n], h[:n], w.T)):
        multiply()
        language.gates("lstm", width, (x, product, c, h, y, gates, cells), step[:2])
    return y, h, c.astype(dtype, copy=False), gates, cells


def lstm_grad(
    language: Language,
    dy: Any | None,
    dh: Any | None,
    dc: Any | None,
    w: Any,
    c0: Any,
    gates: Any,
    cells: Any,
    sizes: Sizes,
    reverse: bool,
) -> tuple[Any, ...]:
    """recurrent.reference.lstm_grad."""
    dtype, width = check_lstm_grad(dy, dh, dc, w, c0, gates, cells, sizes)
    language.served("lstm_grad", dtype)
    xp = gpu.xp()
    dy, c0, gates, cells = (None if a is None else xp.ascontiguousarray(a) for a in (dy, c0, gates, cells))
    dh, dc = (_gradient(a, (sizes[0], width)) for a in (dh, dc))
    dx = xp.empty(gates.shape, dtype)
    for step, of_dh in _backward(sizes, bool(reverse), lambda n: dh[:n]):
        language.gates("lstm_grad", width, (dy, dh, dc, gates, cells, c0, dx), step)
        language.product(of_dh, _rows(dx, step), w)()
    return dx, dh.astype(dtype, copy=False), dc.astype(dtype, copy=False)


def gru(language: Language, x: Any, w: Any, bias: Any | None, h0: Any, sizes: Sizes, reverse: bool) -> tuple[Any, ...]:
    """recurrent.reference.gru."""
    dtype, width = check_gru("gru", x, w, bias, h0, sizes)
    language.served("gru", dtype)
    xp, rows = gpu.xp(), x.shape[0]
    x, h = xp.ascontiguousarray(x), _copied(h0, dtype)
    product = xp.empty((sizes[0], 3 * width), np.float32)
    y, gates = xp.empty((rows, width), dtype), xp.empty((rows, 4 * width), np.float32)
    for step, multiply in _forward(sizes, bool(reverse), lambda n: language.product(product[:n], h[:n], w.T, bias)):
        multiply()
        language.gates("gru", width, (x, product, h, y, gates), step[:2])
    return y, h, gates


def gru_grad(
    language: Language,
    dy: Any | None,
    dh: Any | None,
    w: Any,
    h0: Any,
    y: Any,
    gates: Any,
    sizes: Sizes,
    reverse: bool,
) -> tuple[Any, ...]:
    """recurrent.reference.gru_grad."""
    dtype, width = check_gru_grad(dy, dh, w, h0, y, gates, sizes)
    language.served("gru_grad", dtype)
    xp, batch, rows = gpu.xp(), sizes[0], y.shape[0]
    dy, h0, y, gates = (None if a is None else xp.ascontiguousarray(a) for a in (dy, h0, y, gates))
    both = xp.zeros((2, batch, width), np.float32)
    carried, product = both[0], both[1]
    if dh is not None:
        carried[...] = dh
    dx, dq = xp.empty((rows, 3 * width), dtype), xp.empty((rows, 3 * width), dtype)
    for step, of_product in _backward(sizes, bool(reverse), lambda n: product[:n]):
        language.gates("gru_grad", width, (dy, product, carried, gates, y, h0, dx, dq), step)
        language.product(of_product, _rows(dq, step), w)()
    return dx, dq, language.add(both.reshape(2, batch * width), dtype).reshape(batch, width)


def rnn(language: Language, x: Any, w: Any, h0: Any, sizes: Sizes, reverse: bool, nonlinearity: str) -> tuple[Any, ...]:
    """recurrent.reference.rnn."""
    dtype, width = check_rnn("rnn", x, w, h0, sizes, nonlinearity)
    language.served("rnn", dtype)
    xp = gpu.xp()
    x, h = xp.ascontiguousarray(x), _copied(h0, dtype)
    product, y = xp.empty((sizes[0], width), np.float32), xp.empty(x.shape, dtype)
    for step, multiply in _forward(sizes, bool(reverse), lambda n: language.product(product[:n], h[:n], w.T)):
        multiply()
        language.gates("rnn", width, (x, product, h, y), step[:2], nonlinearity)
    return y, h


def rnn_grad(
    language: Language,
    dy: Any | None,
    dh: Any | None,
    w: Any,
    y: Any,
    sizes: Sizes,
    reverse: bool,
    nonlinearity: str,
) -> tuple[Any, ...]:
    """recurrent.reference.rnn_grad."""
    dtype, width = check_rnn_grad(dy, dh, w, y, sizes, nonlinearity)
    language.served("rnn_grad", dtype)
    xp = gpu.xp()
    dy, y = (None if a is None else xp.ascontiguousarray(a) for a in (dy, y))
    dh, dx = _gradient(dh, (sizes[0], width)), xp.empty(y.shape, dtype)
    for step, of_dh in _backward(sizes, bool(reverse), lambda n: dh[:n]):
        language.gates("rnn_grad", width, (dy, dh, y, dx), step[:2], nonlinearity)
        language.product(of_dh, _rows(dx, step), w)()
    return dx, dh.astype(dtype, copy=False)


@lru_cache(maxsize=64)
def _steps(sizes: Sizes, reverse: bool) -> tuple[Step, ...]:
    """The steps that have rows, in Python's ints."""
    return tuple([Step(*map(int, step)) for step in steps_of(sizes, reverse) if step.rows])


def _forward(sizes: Sizes, reverse: bool, made: Callable[[int], Any]) -> Iterator[tuple[Step, Any]]:
    return _with_rows(_steps(sizes, reverse), made)


def _backward(sizes: Sizes, reverse: bool, made: Callable[[int], Any]) -> Iterator[tuple[Step, Any]]:
    return _with_rows(_steps(sizes, reverse)[::-1], made)


def _with_rows(steps: tuple[Step, ...], made: Callable[[int], Any]) -> Iterator[tuple[Step, Any]]:
    """Each step with what is made for the number of its rows: anew only where that changes."""
    rows, each = 0, None
    for step in steps:
        if step.rows != rows:
            rows = step.rows
            each = made(rows)
        yield step, each


def _rows(a: Any, step: Step) -> Any:
    return a[step.first : step.first + step.rows]


def _copied(state: Any, dtype: Any) -> Any:
    """A copy in that dtype, in C order: it is written to."""
    return state.astype(dtype, order="C")


def _gradient(a: Any | None, shape: tuple[int, int]) -> Any:
    """A float32 copy; zeros for None."""
    return gpu.xp().zeros(shape, np.float32) if a is None else _copied(a, np.float32)
