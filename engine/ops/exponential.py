"""Powers, exponentials, logarithms and roots, elementwise."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine import recording
from engine.autograd import record
from engine.device import array_module
from engine.ops.arithmetic import add, div, mul, neg, sub
from engine.ops.operands import binary, float_operand, ordered, quiet, wide
from engine.ops.selection import where
from engine.tensor import Tensor, wrap


def pow(input: Any, exponent: Any) -> Tensor:
    """a ** b, broadcast;  da = dy * b * a^(b-1),  db = dy * a^b * log a (0 where a = 0 and b >= 0)."""
    a, b = binary("pow", input, exponent)
    if a.data.dtype.kind == "b":
        raise TypeError("pow: both operands are bool; expected numbers")
    if a.data.dtype.kind in "iu" and (recording.values(b) < 0).any():
        raise ValueError("pow: integers to a negative power; expected a floating-point base")
    xp = array_module(a.data)

    def rule(dy: Tensor, y: Tensor | None = None) -> tuple:
        da = db = None
        if a.requires_grad:
            # b = 0 is masked: 0 * a^-1 would be nan at a = 0.
            lower = pow(a, where(wrap(b.data == 0), 1.0, sub(b, 1.0)))
            da = mul(dy, where(wrap(b.data == 0), 0.0, mul(b, lower)))
        if b.requires_grad:
            safe = where(wrap((a.data == 0) & (ordered(b.data) >= 0)), 1.0, a)
            db = mul(mul(dy, y), log(safe))
        return da, db

    with quiet(all="ignore"):
        return record("pow", xp.power(a.data, b.data), (a, b), rule, output=b.requires_grad)


def exp(input: Tensor) -> Tensor:
    """e^x;  dx = dy * y."""
    x = float_operand("exp", input)
    with quiet(all="ignore"):
        y = array_module(x.data).exp(x.data)
    return record("exp", y, (x,), lambda dy, y: (mul(dy, y),), output=True)


def expm1(input: Tensor) -> Tensor:
    """e^x - 1, exact near 0;  dx = dy * e^x (y + 1 would lose its digits where x is well below 0)."""
    x = float_operand("expm1", input)
    with quiet(all="ignore"):
        y = array_module(x.data).expm1(x.data)
    return record("expm1", y, (x,), lambda dy: (mul(dy, exp(x)),))


def log(input: Tensor) -> Tensor:
    """Natural logarithm;  dx = dy / x."""
    x = float_operand("log", input)
    with quiet(all="ignore"):
        return record("log", array_module(x.data).log(x.data), (x,), lambda dy: (div(dy, x),))


def log2(input: Tensor) -> Tensor:
    """Logarithm to base 2;  dx = dy / (x ln 2)."""
    x = float_operand("log2", input)
    with quiet(all="ignore"):
        y = array_module(x.data).log2(x.data)
    return record("log2", y, (x,), lambda dy: (div(dy, mul(x, float(np.log(2)))),))


def log10(input: Tensor) -> Tensor:
    """Logarithm to base 10;  dx = dy / (x ln 10)."""
    x = float_operand("log10", input)
    with quiet(all="ignore"):
        y = array_module(x.data).log10(x.data)
    return record("log10", y, (x,), lambda dy: (div(dy, mul(x, float(np.log(10)))),))


def log1p(input: Tensor) -> Tensor:
    """log(1 + x), exact near 0;  dx = dy / (1 + x)."""
    x = float_operand("log1p", input)
    with quiet(all="ignore"):
        y = array_module(x.data).log1p(x.data)
    return record("log1p", y, (x,), lambda dy: (div(dy, add(x, 1.0)),))


def sqrt(input: Tensor) -> Tensor:
    """Square root;  dx = dy / (2 y)."""
    x = float_operand("sqrt", input)
    with quiet(all="ignore"):
        y = array_module(x.data).sqrt(x.data)
    return record("sqrt", y, (x,), lambda dy, y: (div(dy, mul(y, 2.0)),), output=True)


def rsqrt(input: Tensor) -> Tensor:
    """1 / sqrt(x);  dx = -dy * y^3 / 2."""
    x = float_operand("rsqrt", input)
    with quiet(all="ignore"):
        y = (1 / array_module(x.data).sqrt(wide(x.data))).astype(x.data.dtype, copy=False)
    return record("rsqrt", y, (x,), lambda dy, y: (mul(dy, mul(mul(mul(y, y), y), -0.5)),), output=True)


def reciprocal(input: Tensor) -> Tensor:
    """1 / x;  dx = -dy * y^2."""
    x = float_operand("reciprocal", input)
    with quiet(all="ignore"):
        y = 1 / x.data
    return record("reciprocal", y, (x,), lambda dy, y: (neg(mul(dy, mul(y, y))),), output=True)
