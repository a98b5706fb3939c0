"""Powers, exponentials, logarithms and roots, elementwise."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilegrad import capture_hooks
from tilegrad.autograd.record import record
from tilegrad.device import array_module
from tilegrad.ops.arithmetic import add, div, mul, neg, sub
from tilegrad.ops.operands import binary, float_operand, ordered, quiet, rounded_once, wide
from tilegrad.ops.selection import where
from tilegrad.tensor import Tensor, wrap


def pow(input: Any, exponent: Any) -> Tensor:
    """a ** b, broadcast;  da = dy * b * a^(b-1),  db = dy * a^b * log a (0 where a = 0 and b >= 0).

    Integers to the power of a negative number raise ValueError. To the power of a tensor's negative elements, their
    results are cut to integers.
    """
    a, b = binary("pow", input, exponent)
    if a.data.dtype.kind == "b":
        raise TypeError("pow: both operands are bool; expected numbers")
    if a.data.dtype.kind in "iu" and not isinstance(exponent, Tensor):
        capture_hooks.check(_require_no_negative, b)

    def rule(dy: Tensor, y: Tensor | None = None) -> tuple:
        da = _pow_grad_base(dy, a, b) if a.requires_grad else None
        return da, _pow_grad_exponent(dy, a, b, y) if b.requires_grad and y is not None else None

    with quiet(all="ignore"):
        y = _integer_power(a.data, b.data) if a.data.dtype.kind == "i" else array_module(a.data).power(a.data, b.data)
    return record("pow", y, (a, b), rule, output=b.requires_grad)


def _require_no_negative(exponents: Any) -> None:
    if (exponents < 0).any():
        raise ValueError("pow: integers to a negative power; expected a floating-point base")


@rounded_once
def _pow_grad_base(dy: Tensor, a: Tensor, b: Tensor) -> Tensor:
    # b = 0 is masked: 0 * a^-1 would be nan at a = 0.
    lower = pow(a, where(wrap(b.data == 0), 1.0, sub(b, 1.0)))
    return mul(dy, where(wrap(b.data == 0), 0.0, mul(b, lower)))


@rounded_once
def _pow_grad_exponent(dy: Tensor, a: Tensor, b: Tensor, y: Tensor) -> Tensor:
    safe = where(wrap((a.data == 0) & (ordered(b.data) >= 0)), 1.0, a)
    return mul(mul(dy, y), log(safe))


def _integer_power(a: Any, b: Any) -> Any:
    """a ** b of signed integers. a^-n is cut to an integer: 0 unless a is 1 or -1; 0 for a = 0 too, as in PyTorch."""
    xp = array_module(a)
    y = xp.power(a, xp.maximum(b, 0))
    unit = xp.where(a == 1, 1, xp.where(a == -1, 1 - 2 * (b & 1), 0)).astype(y.dtype)
    return xp.where(b < 0, unit, y)


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
    return record("rsqrt", y, (x,), lambda dy, y: (_rsqrt_grad(dy, y),), output=True)


@rounded_once
def _rsqrt_grad(dy: Tensor, y: Tensor) -> Tensor:
    return mul(dy, mul(mul(mul(y, y), y), -0.5))


def reciprocal(input: Tensor) -> Tensor:
    """1 / x;  dx = -dy * y^2."""
    x = float_operand("reciprocal", input)
    with quiet(all="ignore"):
        y = 1 / x.data
    return record("reciprocal", y, (x,), lambda dy, y: (neg(mul(dy, mul(y, y))),), output=True)
