"""Elementwise choices between values: maximum, clamp, where."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilegrad.autograd.record import record
from tilegrad.device import array_module
from tilegrad.dtypes import FLOATS
from tilegrad.ops.arithmetic import add, mul, sub
from tilegrad.ops.elementwise import elementwise
from tilegrad.ops.operands import as_tensor, binary, broadcast_shape, cast, number, ordered, require_one_device
from tilegrad.tensor import Tensor, wrap


def maximum(input: Any, other: Any) -> Tensor:
    """The larger of a and b (nan if either is); the gradient goes to the larger, or half to each of two equals."""
    return _extremum("maximum", input, other)


def minimum(input: Any, other: Any) -> Tensor:
    """The smaller of a and b (nan if either is); the gradient goes to the smaller, or half to each of two equals."""
    return _extremum("minimum", input, other)


def _extremum(name: str, input: Any, other: Any) -> Tensor:
    a, b = binary(name, input, other)

    def rule(dy: Tensor) -> tuple:
        larger, smaller = (a, b) if name == "maximum" else (b, a)
        tie = mul(cast(wrap(elementwise(np.equal, a.data, b.data)), dy.dtype), 0.5)
        larger, smaller = ordered(larger.data), ordered(smaller.data)
        lost = cast(wrap(elementwise(np.less, larger, smaller)), dy.dtype)  # by a
        won = cast(wrap(elementwise(np.greater, larger, smaller)), dy.dtype)  # by a, so that b lost
        # Where one is nan, neither lost, and both get the gradient, as in PyTorch.
        da = mul(dy, sub(1.0, add(lost, tie))) if a.requires_grad else None
        return da, mul(dy, sub(1.0, add(won, tie))) if b.requires_grad else None

    y = elementwise(getattr(np, name), ordered(a.data), ordered(b.data))
    return record(name, y.astype(a.data.dtype, copy=False), (a, b), rule)


def clamp(input: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """x cut to [min, max]; the gradient passes where x is within (bounds included), the rest goes to the bound."""
    if min is None and max is None:
        raise ValueError("clamp: min and max are both None; expected at least one")
    y = as_tensor("clamp", input)
    if type(min) in (int, float) and type(max) in (int, float) and y.data.dtype in FLOATS:
        return _between(y, min, max)
    if min is not None:
        y = _bounded("clamp", y, min, below=True)
    return y if max is None else _bounded("clamp", y, max, below=False)


def _between(x: Tensor, low: Any, high: Any) -> Tensor:
    """Both bounds in one pass over memory."""
    x, least = binary("clamp", x, low)
    most = binary("clamp", x, high)[1]

    def rule(dy: Tensor) -> tuple:
        value, zero = ordered(x.data), number("clamp", 0, dy.data.dtype, array_module(x.data))
        above = elementwise(np.greater_equal, value, ordered(least.data))
        below = elementwise(np.less_equal, value, ordered(most.data))
        return (where(wrap(elementwise(np.logical_and, above, below)), dy, zero),)

    y = elementwise(np.clip, ordered(x.data), ordered(least.data), ordered(most.data))
    return record("clamp", y.astype(x.data.dtype, copy=False), (x,), rule)


def _bounded(name: str, input: Tensor, bound: Any, *, below: bool) -> Tensor:
    x, b = binary(name, input, bound)
    xp = array_module(x.data)

    def rule(dy: Tensor) -> tuple:
        value, limit = ordered(x.data), ordered(b.data)
        inside = wrap(elementwise(np.greater_equal if below else np.less_equal, value, limit))
        outside = wrap(elementwise(np.less if below else np.greater, value, limit))
        zero = number(name, 0, dy.data.dtype, xp)
        dx = where(inside, dy, zero) if x.requires_grad else None
        return dx, where(outside, dy, zero) if b.requires_grad else None

    y = elementwise(np.maximum if below else np.minimum, ordered(x.data), ordered(b.data))
    return record(name, y.astype(x.data.dtype, copy=False), (x, b), rule)


clip = clamp


def where(condition: Any, input: Any, other: Any) -> Tensor:
    """a where the condition holds, else b, all three broadcast. Raises TypeError unless the condition is bool."""
    condition = as_tensor("where", condition)
    if condition.data.dtype.kind != "b":
        raise TypeError(f"where: the condition is {condition.dtype}; expected bool")
    xp = array_module(condition.data)
    a, b = binary("where", input, other, xp)
    require_one_device("where", condition, a, b)
    broadcast_shape("where", condition.data.shape, a.data.shape, b.data.shape)
    first, second = a.requires_grad, b.requires_grad

    def rule(dy: Tensor) -> tuple:
        zero = number("where", 0, dy.data.dtype, xp)
        return where(condition, dy, zero) if first else None, where(condition, zero, dy) if second else None

    return record("where", elementwise(np.where, condition.data, a.data, b.data), (a, b), rule)


def masked_fill(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """x with `value` where the mask holds; both broadcast."""
    x, mask = as_tensor("masked_fill", input), as_tensor("masked_fill", mask)
    require_one_device("masked_fill", x, mask)
    if mask.data.dtype.kind != "b":
        raise TypeError(f"masked_fill: the mask is {mask.dtype}; expected bool")
    broadcast_shape("masked_fill", x.data.shape, mask.data.shape)
    value = as_tensor("masked_fill", value, x)
    if value.ndim:
        raise ValueError(f"masked_fill: the value is {value.shape}; expected a number or a tensor without dimensions")
    return where(mask, cast(value, x.dtype), x)
