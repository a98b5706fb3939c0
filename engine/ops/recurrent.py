"""Recurrent layers over whole sequences: the fused primitives, tied into the graph; and the same composed of other ops.

    lstm   i, f, g, o = sigmoid, sigmoid, tanh, sigmoid of x_t + h W^T,   c' = f c + i g,   h' = o tanh(c')
    gru    q = h W^T + b,   r, z = sigmoid(x_t + q),   n = tanh(x_t + r q),   h' = n + z (h - n)
    rnn    h' = tanh or relu of x_t + h W^T

x is the inputs' part of all steps, computed before as one product. Rows, sizes and `reverse` are the primitives'
(kernels/recurrent/reference.py). The gradient of W is one product too, of all steps' gradients and the states before
them. Gradients of gradients go through the composed form, as does an LSTM with a projection: a few launches a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from tilegrad import kernels
from tilegrad.autograd.backward import grad
from tilegrad.autograd.grad_mode import is_grad_enabled
from tilegrad.autograd.pieces import piece
from tilegrad.autograd.record import record
from tilegrad.kernels.recurrent.steps import Sizes, states_before
from tilegrad.ops.activations import relu, sigmoid, tanh
from tilegrad.ops.arithmetic import add, mul, sub
from tilegrad.ops.constants import constant
from tilegrad.ops.index import index_select
from tilegrad.ops.linalg import matmul
from tilegrad.ops.operands import cast, made_together, require_float, widened
from tilegrad.ops.reduce import sum
from tilegrad.ops.shape import cat, chunk, narrow, split, transpose
from tilegrad.tensor import Tensor

_Y, _H, _C = range(3)  # the pieces of a layer's results

States = tuple[Tensor, ...]


def lstm(
    x: Tensor, weight: Tensor, h0: Tensor, c0: Tensor, sizes: Sizes, reverse: bool = False, proj: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(y, h, c):  x (N, 4 H), weight (4 H, H), h0 and c0 (B, H) -> y (N, H), h and c (B, H).

    proj  (P, H) or None: h' = o tanh(c') proj^T (Sak, Senior & Beaufays 2014); weight is (4 H, P) then, h0, h and y are
          P wide
    """
    require_float("lstm", x, weight, h0, c0, proj)
    if proj is not None:
        y, h, c = _composed_lstm(x, weight, h0, c0, proj, sizes=sizes, reverse=reverse)
        return y, h, c
    arrays = [each.data for each in (x, weight, h0, c0)]
    y, h, c, gates, cells = kernels.of(*arrays).lstm(*arrays, sizes, reverse)

    def rule(grads: Any, y: Tensor) -> tuple:
        dy, dh, dc = (grads.parts.get(number) for number in (_Y, _H, _C))
        if is_grad_enabled():
            composed = partial(_composed_lstm, sizes=sizes, reverse=reverse)
            return _by_ops(composed, (x, weight, h0, c0), (dy, dh, dc))
        used = dy, dh, dc, weight, c0
        arrays = [None if each is None else each.data for each in used]
        found = kernels.of(arrays[3]).lstm_grad(*arrays, gates, cells, sizes, reverse)
        dx, dh, dc = made_together("lstm_grad", used, found, (x, h0, c0))
        return dx, _to_weight(dx, weight, h0, y, sizes, reverse), dh, dc

    together = record("lstm", y, (x, weight, h0, c0), rule, output=True)
    return _piece("lstm", together, y, _Y), _piece("lstm", together, h, _H), _piece("lstm", together, c, _C)


def gru(
    x: Tensor, weight: Tensor, bias: Tensor | None, h0: Tensor, sizes: Sizes, reverse: bool = False
) -> tuple[Tensor, Tensor]:
    """(y, h):  x (N, 3 H), weight (3 H, H), bias (3 H,) or None, h0 (B, H) -> y (N, H), h (B, H)."""
    require_float("gru", x, weight, bias, h0)
    arrays = [None if each is None else each.data for each in (x, weight, bias, h0)]
    y, h, gates = kernels.of(*arrays).gru(*arrays, sizes, reverse)
    parents = (x, weight, h0) if bias is None else (x, weight, bias, h0)

    def rule(grads: Any, y: Tensor) -> tuple:
        dy, dh = (grads.parts.get(number) for number in (_Y, _H))
        if is_grad_enabled():
            return _by_ops(partial(_composed_gru, sizes=sizes, reverse=reverse), parents, (dy, dh))
        used = dy, dh, weight, h0, y
        arrays = [None if each is None else each.data for each in used]
        found = kernels.of(arrays[2]).gru_grad(*arrays, gates, sizes, reverse)
        dx, dq, dh = made_together("gru_grad", used, found, (x, weight, h0))
        dw = _to_weight(dq, weight, h0, y, sizes, reverse)
        if len(parents) == 3:
            return dx, dw, dh
        return dx, dw, sum(dq, 0) if parents[2].requires_grad else None, dh

    together = record("gru", y, parents, rule, output=True)
    return _piece("gru", together, y, _Y), _piece("gru", together, h, _H)


def rnn(
    x: Tensor, weight: Tensor, h0: Tensor, sizes: Sizes, reverse: bool = False, nonlinearity: str = "tanh"
) -> tuple[Tensor, Tensor]:
    """(y, h):  x (N, H), weight (H, H), h0 (B, H) -> y (N, H), h (B, H); nonlinearity "tanh" or "relu"."""
    require_float("rnn", x, weight, h0)
    arrays = [each.data for each in (x, weight, h0)]
    y, h = kernels.of(*arrays).rnn(*arrays, sizes, reverse, nonlinearity)

    def rule(grads: Any, y: Tensor) -> tuple:
        dy, dh = (grads.parts.get(number) for number in (_Y, _H))
        if is_grad_enabled():
            composed = partial(_composed_rnn, sizes=sizes, reverse=reverse, nonlinearity=nonlinearity)
            return _by_ops(composed, (x, weight, h0), (dy, dh))
        used = dy, dh, weight, y
        arrays = [None if each is None else each.data for each in used]
        found = kernels.of(arrays[2]).rnn_grad(*arrays, sizes, reverse, nonlinearity)
        dx, dh = made_together("rnn_grad", used, found, (x, h0))
        return dx, _to_weight(dx, weight, h0, y, sizes, reverse), dh

    together = record("rnn", y, (x, weight, h0), rule, output=True)
    return _piece("rnn", together, y, _Y), _piece("rnn", together, h, _H)


def _piece(op: str, together: Tensor, result: Any, number: int) -> Tensor:
    """One of a layer's results as a tensor; its gradient goes to the one node behind all of them."""
    shape = together.shape
    view_of = together if number == _Y else None
    return record(op, result, (together,), lambda dy: (piece(number, dy, shape),), view_of=view_of)


def _to_weight(d: Tensor, weight: Tensor, h0: Tensor, y: Tensor, sizes: Sizes, reverse: bool) -> Tensor | None:
    """The weight's gradient from that of what it made: the sum over rows of d and the state before each of them."""
    if not weight.requires_grad:
        return None
    if sizes[-1] == sizes[0]:  # a plain batch: the states lie one after the other
        known = y.shape[0] - h0.shape[0]
        before = cat([narrow(y, 0, h0.shape[0], known), h0] if reverse else [h0, narrow(y, 0, 0, known)])
    else:
        before = index_select(cat([h0, y]), 0, constant(y, states_before, sizes, reverse))
    return matmul(transpose(d, 0, 1), before)


# --- composed of other ops, in float32 for the 16-bit types


def _by_ops(composed: Callable[..., States], parents: Sequence[Tensor], grads: Sequence[Tensor | None]) -> tuple:
    """The gradients of the composed layer with respect to its parents, recorded.

    They are found for views of the parents, which have no hooks: a parent's own hooks must see its whole gradient, and
    what is found here may be a part of it.
    """
    inputs = [_view(each) for each in parents]
    outputs = composed(*inputs)
    pairs = [(y, g) for y, g in zip(outputs, grads) if g is not None and y.requires_grad]
    asked = [each for each in inputs if each.requires_grad]
    found = iter(grad([y for y, _ in pairs], asked, [g for _, g in pairs], create_graph=True, allow_unused=True))
    return tuple([next(found) if each.requires_grad else None for each in inputs])


def _view(x: Tensor) -> Tensor:
    return record("view", x.data, (x,), lambda dy: (dy,), view_of=x)


def _composed_lstm(
    x: Tensor, weight: Tensor, h0: Tensor, c0: Tensor, proj: Tensor | None = None, *, sizes: Sizes, reverse: bool
) -> States:
    def step(x: Tensor, h: Tensor, c: Tensor) -> States:
        i, f, g, o = chunk(add(x, matmul(h, w_t)), 4, 1)
        c = add(mul(sigmoid(f), c), mul(sigmoid(i), tanh(g)))
        h = mul(sigmoid(o), tanh(c))
        return h if proj_t is None else matmul(h, proj_t), c

    w_t = transpose(widened(weight), 0, 1)
    proj_t = None if proj is None else transpose(widened(proj), 0, 1)
    return _through(step, x, (h0, c0), sizes, reverse)


def _composed_gru(x: Tensor, weight: Tensor, *others: Tensor, sizes: Sizes, reverse: bool) -> States:
    """others: h0, or bias and h0."""

    def step(x: Tensor, h: Tensor) -> States:
        q = matmul(h, w_t)
        q = q if bias is None else add(q, bias)
        (x_r, x_z, x_n), (q_r, q_z, q_n) = chunk(x, 3, 1), chunk(q, 3, 1)
        r, z = sigmoid(add(x_r, q_r)), sigmoid(add(x_z, q_z))
        n = tanh(add(x_n, mul(r, q_n)))
        return (add(n, mul(z, sub(h, n))),)

    w_t = transpose(widened(weight), 0, 1)
    bias = widened(others[0]) if len(others) == 2 else None
    return _through(step, x, others[-1:], sizes, reverse)


def _composed_rnn(x: Tensor, weight: Tensor, h0: Tensor, *, sizes: Sizes, reverse: bool, nonlinearity: str) -> States:
    def step(x: Tensor, h: Tensor) -> States:
        a = add(x, matmul(h, w_t))
        return (tanh(a) if nonlinearity == "tanh" else relu(a),)

    w_t = transpose(widened(weight), 0, 1)
    return _through(step, x, (h0,), sizes, reverse)


def _through(step: Callable[..., States], x: Tensor, states: States, sizes: Sizes, reverse: bool) -> States:
    """(y, *the last states) of a layer, h the first of its states: step by step, (rows, *states) -> states."""
    dtype, x = x.dtype, widened(x)
    states = tuple([widened(each) for each in states])
    rows_of = split(x, list(sizes))
    ys: list[Tensor] = []
    for n, rows in zip(reversed(sizes) if reverse else sizes, reversed(rows_of) if reverse else rows_of):
        old = states if n == sizes[0] else [narrow(each, 0, 0, n) for each in states]
        new = step(rows, *old)
        ys.append(new[0])
        rest = sizes[0] - n
        if rest:  # sequences that have ended, or not begun, keep their states
            new = tuple([cat([a, narrow(b, 0, n, rest)]) for a, b in zip(new, states)])
        states = new
    y = cat(ys[::-1] if reverse else ys)
    return tuple([cast(each, dtype) for each in (y, *states)])
