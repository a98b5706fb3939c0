"""Powers, exponentials, logarithms and roots, elementwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tilegrad import capture_hooks, dtypes
from tilegrad.autograd.record import record
from tilegrad.device import array_module
from tilegrad.kernels.cpu import formulas
from tilegrad.ops.arithmetic import add, div, mul, neg, sub
from tilegrad.ops.elementwise import elementwise
from tilegrad.ops.operands import binary, float_operand, ordered, quiet, rounded_once, wide
from tilegrad.ops.selection import where
from tilegrad.tensor import Tensor, wrap


def pow(input: Any, exponent: Any) -> Tensor:
    """a ** b, broadcast;  da = dy * b * a^(b-1),  db = dy * a^b * log a (0 where a = 0 and b >= 0).

    Integers to the power of a negative number raise ValueError. To the power of a tensor's negative elements, their
    results are cut to integers. A square root, a square and a cube are computed as such, as in PyTorch.
    """
    a, b = binary("pow", input, exponent)
    if a.data.dtype.kind == "b":
        raise TypeError("pow: both operands are bool; expected numbers")
    if a.data.dtype.kind in "iu" and not isinstance(exponent, Tensor):
        capture_hooks.check(_require_no_negative, b)

    product = _PRODUCTS.get(exponent) if type(exponent) in (int, float) and _is_wide(a._data) else None

    def rule(dy: Tensor, y: Tensor | None = None) -> tuple:
        if product is not None:
            return mul(dy, mul(a if exponent == 2 else pow(a, exponent - 1), exponent)), None
        da = _pow_grad_base(dy, a, b) if a.requires_grad else None
        return da, _pow_grad_exponent(dy, a, b, y) if b.requires_grad and y is not None else None

    with quiet():
        if product is not None:
            y = product(a._data)
        elif a._data.dtype.kind == "i":
            y = _integer_power(a._data, b._data)
        else:
            y = elementwise(np.power, a._data, b._data)
    return record("pow", y, (a, b), rule, output=b.requires_grad)


def _is_wide(x: Any) -> bool:
    """Whether products of these numbers may be rounded one by one: they are the CPU's, and not of 16 bits."""
    return isinstance(x, np.ndarray) and x.dtype in (dtypes.float32, dtypes.float64)


# Powers that cost less as products and roots. NumPy's power takes 170 times as long for the cube of a negative number.
_PRODUCTS: dict[Any, Callable[[Any], Any]] = {
    -0.5: lambda x: elementwise(formulas.rsqrt, x),
    0.5: lambda x: elementwise(np.sqrt, x),
    2: lambda x: elementwise(np.square, x),
    3: lambda x: elementwise(formulas.cube, x),
}


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
    with quiet():
        y = elementwise(np.exp, x._data)
    return record("exp", y, (x,), lambda dy, y: (mul(dy, y),), output=True)


def expm1(input: Tensor) -> Tensor:
    """e^x - 1, exact near 0;  dx = dy * e^x (y + 1 would lose its digits where x is well below 0)."""
    x = float_operand("expm1", input)
    with quiet():
        y = elementwise(np.expm1, x._data)
    return record("expm1", y, (x,), lambda dy: (mul(dy, exp(x)),))


def log(input: Tensor) -> Tensor:
    """Natural logarithm;  dx = dy / x."""
    x = float_operand("log", input)
    with quiet():
        return record("log", elementwise(np.log, x._data), (x,), lambda dy: (div(dy, x),))


def log2(input: Tensor) -> Tensor:
    """Logarithm to base 2;  dx = dy / (x ln 2)."""
    x = float_operand("log2", input)
    with quiet():
        y = elementwise(np.log2, x._data)
    return record("log2", y, (x,), lambda dy: (div(dy, mul(x, float(np.log(2)))),))


def log10(input: Tensor) -> Tensor:
    """Logarithm to base 10;  dx = dy / (x ln 10)."""
    x = float_operand("log10", input)
    with quiet():
        y = elementwise(np.log10, x._data)
    return record("log10", y, (x,), lambda dy: (div(dy, mul(x, float(np.log(10)))),))


def log1p(input: Tensor) -> Tensor:
    """log(1 + x), exact near 0;  dx = dy / (1 + x)."""
    x = float_operand("log1p", input)
    with quiet():
        y = elementwise(np.log1p, x._data)
    return record("log1p", y, (x,), lambda dy: (div(dy, add(x, 1.0)),))


def sqrt(input: Tensor) -> Tensor:
    """Square root;  dx = dy / (2 y)."""
    x = float_operand("sqrt", input)
    with quiet():
        y = elementwise(np.sqrt, x._data)
    return record("sqrt", y, (x,), lambda dy, y: (div(dy, mul(y, 2.0)),), output=True)


def rsqrt(input: Tensor) -> Tensor:
    """1 / sqrt(x);  dx = -dy * y^3 / 2."""
    x = float_operand("rsqrt", input)
    with quiet():
        z = wide(x._data)
        y = elementwise(formulas.rsqrt, z) if isinstance(z, np.ndarray) else 1 / array_module(z).sqrt(z)
        y = y.astype(x._data.dtype, copy=False)
    return record("rsqrt", y, (x,), lambda dy, y: (_rsqrt_grad(dy, y),), output=True)


@rounded_once
def _rsqrt_grad(dy: Tensor, y: Tensor) -> Tensor:
    return mul(dy, mul(mul(mul(y, y), y), -0.5))


def reciprocal(input: Tensor) -> Tensor:
    """1 / x;  dx = -dy * y^2."""
    x = float_operand("reciprocal", input)
    with quiet():
        y = elementwise(np.reciprocal, x._data)
    return record("reciprocal", y, (x,), lambda dy, y: (neg(mul(dy, mul(y, y))),), output=True)
