"""Trigonometric and hyperbolic functions, elementwise (tanh is an activation: tilegrad.ops.activations)."""

from __future__ import annotations

import numpy as np

from tilegrad.autograd.record import record
from tilegrad.ops.arithmetic import add, div, mul, neg, sub
from tilegrad.ops.elementwise import elementwise
from tilegrad.ops.exponential import rsqrt
from tilegrad.ops.operands import float_operand, quiet
from tilegrad.tensor import Tensor


def sin(input: Tensor) -> Tensor:
    """sin x;  dx = dy * cos x."""
    x = float_operand("sin", input)
    with quiet():
        return record("sin", elementwise(np.sin, x._data), (x,), lambda dy: (mul(dy, cos(x)),))


def cos(input: Tensor) -> Tensor:
    """cos x;  dx = -dy * sin x."""
    x = float_operand("cos", input)
    with quiet():
        return record("cos", elementwise(np.cos, x._data), (x,), lambda dy: (neg(mul(dy, sin(x))),))


def tan(input: Tensor) -> Tensor:
    """tan x;  dx = dy * (1 + y^2)."""
    x = float_operand("tan", input)
    with quiet():
        y = elementwise(np.tan, x._data)
    return record("tan", y, (x,), lambda dy, y: (mul(dy, add(mul(y, y), 1.0)),), output=True)


def arcsin(input: Tensor) -> Tensor:
    """arcsin x;  dx = dy / sqrt(1 - x^2)."""
    x = float_operand("arcsin", input)
    with quiet():
        y = elementwise(np.arcsin, x._data)
    return record("arcsin", y, (x,), lambda dy: (mul(dy, rsqrt(sub(1.0, mul(x, x)))),))


def arccos(input: Tensor) -> Tensor:
    """arccos x;  dx = -dy / sqrt(1 - x^2)."""
    x = float_operand("arccos", input)
    with quiet():
        y = elementwise(np.arccos, x._data)
    return record("arccos", y, (x,), lambda dy: (neg(mul(dy, rsqrt(sub(1.0, mul(x, x))))),))


def arctan(input: Tensor) -> Tensor:
    """arctan x;  dx = dy / (1 + x^2)."""
    x = float_operand("arctan", input)
    return record("arctan", elementwise(np.arctan, x._data), (x,), lambda dy: (div(dy, add(mul(x, x), 1.0)),))


asin, acos, atan = arcsin, arccos, arctan


def sinh(input: Tensor) -> Tensor:
    """sinh x;  dx = dy * cosh x."""
    x = float_operand("sinh", input)
    with quiet():
        return record("sinh", elementwise(np.sinh, x._data), (x,), lambda dy: (mul(dy, cosh(x)),))


def cosh(input: Tensor) -> Tensor:
    """cosh x;  dx = dy * sinh x."""
    x = float_operand("cosh", input)
    with quiet():
        return record("cosh", elementwise(np.cosh, x._data), (x,), lambda dy: (mul(dy, sinh(x)),))
