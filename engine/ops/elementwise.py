"""Elementwise ops: arithmetic, comparison, powers, exponentials, trigonometry, selection.

NumPy and CuPy run the identical line for these, so they are `xp` code, not primitives. Gradients come back with the
result's shape; the walk sums them over broadcast dimensions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine import dtypes
from engine.autograd import record
from engine.device import array_module
from engine.ops.operands import (
    as_tensor,
    binary,
    broadcast_shape,
    cast,
    float_operand,
    quiet,
    zeros_like,
)
from engine.tensor import Tensor, wrap

# --- arithmetic ------------------------------------------------------------------------------------------------------


def add(input: Any, other: Any, *, alpha: float = 1) -> Tensor:
    """a + alpha * b, broadcast."""
    a, b = binary("add", input, other)
    if alpha != 1:
        b = mul(b, alpha)
    with quiet(all="ignore"):
        return record("add", a.data + b.data, (a, b), lambda dy: (dy, dy))


def sub(input: Any, other: Any, *, alpha: float = 1) -> Tensor:
    """a - alpha * b, broadcast. Raises TypeError for two bools."""
    a, b = binary("sub", input, other)
    if a.data.dtype.kind == "b":
        raise TypeError("sub: both operands are bool; expected numbers (logical_xor is the difference of bools)")
    if alpha != 1:
        b = mul(b, alpha)
    wanted = b.requires_grad
    with quiet(all="ignore"):
        return record("sub", a.data - b.data, (a, b), lambda dy: (dy, neg(dy) if wanted else None))


def mul(input: Any, other: Any) -> Tensor:
    """a * b, broadcast;  da = dy * b,  db = dy * a."""
    a, b = binary("mul", input, other)
    # Each operand is kept only for the other's gradient.
    for_a, for_b = b if a.requires_grad else None, a if b.requires_grad else None

    def rule(dy: Tensor) -> tuple:
        return None if for_a is None else mul(dy, for_a), None if for_b is None else mul(dy, for_b)

    with quiet(all="ignore"):
        return record("mul", a.data * b.data, (a, b), rule)


def div(input: Any, other: Any, *, rounding_mode: str | None = None) -> Tensor:
    """a / b, broadcast, integers as float32;  da = dy / b,  db = -dy * a / b^2.

    rounding_mode "floor" or "trunc" rounds the quotient (integers stay integers); the gradient is then zero.
    """
    if rounding_mode not in (None, "floor", "trunc"):
        raise ValueError(f"div: rounding_mode is {rounding_mode!r}; expected None, 'floor' or 'trunc'")
    if rounding_mode is not None:
        return floor_divide(input, other) if rounding_mode == "floor" else _trunc_divide(input, other)
    a, b = binary("div", input, other)
    if a.data.dtype.kind != "f":
        a, b = cast(a, dtypes.float32), cast(b, dtypes.float32)
    dividend = a if b.requires_grad else None
    wanted = a.requires_grad

    def rule(dy: Tensor) -> tuple:
        da = div(dy, b)
        return da if wanted else None, None if dividend is None else neg(mul(da, div(dividend, b)))

    with quiet(all="ignore"):
        return record("div", a.data / b.data, (a, b), rule)


def floor_divide(input: Any, other: Any) -> Tensor:
    """floor(a / b); its gradient is zero. Raises ZeroDivisionError for an integer divisor of 0."""
    a, b = _divisible("floor_divide", input, other)
    with quiet(all="ignore"):
        return record("floor_divide", a.data // b.data, (a, b), lambda dy: (zeros_like(dy), zeros_like(dy)))


def _trunc_divide(input: Any, other: Any) -> Tensor:
    a, b = _divisible("div", input, other)
    if a.data.dtype.kind == "f":
        return trunc(div(a, b))
    down = a.data // b.data
    return wrap(down + ((down < 0) & (down * b.data != a.data)).astype(down.dtype))  # exact, unlike a float quotient


def remainder(input: Any, other: Any) -> Tensor:
    """a - b * floor(a / b), with the sign of b;  da = dy,  db = -dy * floor(a / b)."""
    a, b = _divisible("remainder", input, other)
    operands = (a, b) if b.requires_grad else None

    def rule(dy: Tensor) -> tuple:
        return dy, None if operands is None else neg(mul(dy, floor_divide(*operands)))

    with quiet(all="ignore"):
        return record("remainder", a.data % b.data, (a, b), rule)


def _divisible(op: str, input: Any, other: Any) -> tuple[Tensor, Tensor]:
    a, b = binary(op, input, other)
    if a.data.dtype.kind == "b":
        raise TypeError(f"{op}: both operands are bool; expected numbers")
    if b.data.dtype.kind != "f" and not b.data.all():
        raise ZeroDivisionError(f"{op}: the integer divisor holds a 0; expected none")
    return a, b


def neg(input: Any) -> Tensor:
    """-x."""
    x = as_tensor("neg", input)
    if x.data.dtype.kind == "b":
        raise TypeError("neg: the tensor is bool; expected numbers (logical_not is the negation of bools)")
    return record("neg", -x.data, (x,), lambda dy: (neg(dy),))


def pow(input: Any, exponent: Any) -> Tensor:
    """a ** b, broadcast;  da = dy * b * a^(b-1),  db = dy * a^b * log a (0 where a = 0 and b >= 0)."""
    a, b = binary("pow", input, exponent)
    if a.data.dtype.kind == "b":
        raise TypeError("pow: both operands are bool; expected numbers")
    if a.data.dtype.kind in "iu" and (b.data < 0).any():
        raise ValueError("pow: integers to a negative power; expected a floating-point base")
    xp = array_module(a.data)

    def rule(dy: Tensor, y: Tensor | None = None) -> tuple:
        da = db = None
        if a.requires_grad:
            # b = 0 is masked: 0 * a^-1 would be nan at a = 0.
            lower = pow(a, where(wrap(b.data == 0), 1.0, sub(b, 1.0)))
            da = mul(dy, where(wrap(b.data == 0), 0.0, mul(b, lower)))
        if b.requires_grad:
            zero = wrap((a.data == 0) & (b.data >= 0))
            safe = where(zero, 1.0, a)
            db = where(zero, 0.0, mul(mul(dy, y), log(safe)))
        return da, db

    with quiet(all="ignore"):
        return record("pow", xp.power(a.data, b.data), (a, b), rule, output=b.requires_grad)


def square(input: Tensor) -> Tensor:
    """x * x."""
    return mul(input, input)


# --- exponentials and roots ------------------------------------------------------------------------------------------


def exp(input: Tensor) -> Tensor:
    """e^x;  dx = dy * y."""
    x = float_operand("exp", input)
    with quiet(all="ignore"):
        y = array_module(x.data).exp(x.data)
    return record("exp", y, (x,), lambda dy, y: (mul(dy, y),), output=True)


def expm1(input: Tensor) -> Tensor:
    """e^x - 1, exact near 0;  dx = dy * (y + 1)."""
    x = float_operand("expm1", input)
    with quiet(all="ignore"):
        y = array_module(x.data).expm1(x.data)
    return record("expm1", y, (x,), lambda dy, y: (mul(dy, add(y, 1.0)),), output=True)


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
        y = 1 / array_module(x.data).sqrt(x.data)
    return record("rsqrt", y, (x,), lambda dy, y: (mul(dy, mul(mul(mul(y, y), y), -0.5)),), output=True)


def reciprocal(input: Tensor) -> Tensor:
    """1 / x;  dx = -dy * y^2."""
    x = float_operand("reciprocal", input)
    with quiet(all="ignore"):
        y = 1 / x.data
    return record("reciprocal", y, (x,), lambda dy, y: (neg(mul(dy, mul(y, y))),), output=True)


# --- trigonometry ----------------------------------------------------------------------------------------------------


def sin(input: Tensor) -> Tensor:
    """sin x;  dx = dy * cos x."""
    x = float_operand("sin", input)
    with quiet(all="ignore"):
        return record("sin", array_module(x.data).sin(x.data), (x,), lambda dy: (mul(dy, cos(x)),))


def cos(input: Tensor) -> Tensor:
    """cos x;  dx = -dy * sin x."""
    x = float_operand("cos", input)
    with quiet(all="ignore"):
        return record("cos", array_module(x.data).cos(x.data), (x,), lambda dy: (neg(mul(dy, sin(x))),))


def tan(input: Tensor) -> Tensor:
    """tan x;  dx = dy * (1 + y^2)."""
    x = float_operand("tan", input)
    with quiet(all="ignore"):
        y = array_module(x.data).tan(x.data)
    return record("tan", y, (x,), lambda dy, y: (mul(dy, add(mul(y, y), 1.0)),), output=True)


def arcsin(input: Tensor) -> Tensor:
    """arcsin x;  dx = dy / sqrt(1 - x^2)."""
    x = float_operand("arcsin", input)
    with quiet(all="ignore"):
        y = array_module(x.data).arcsin(x.data)
    return record("arcsin", y, (x,), lambda dy: (mul(dy, rsqrt(sub(1.0, mul(x, x)))),))


def arccos(input: Tensor) -> Tensor:
    """arccos x;  dx = -dy / sqrt(1 - x^2)."""
    x = float_operand("arccos", input)
    with quiet(all="ignore"):
        y = array_module(x.data).arccos(x.data)
    return record("arccos", y, (x,), lambda dy: (neg(mul(dy, rsqrt(sub(1.0, mul(x, x))))),))


def arctan(input: Tensor) -> Tensor:
    """arctan x;  dx = dy / (1 + x^2)."""
    x = float_operand("arctan", input)
    return record("arctan", array_module(x.data).arctan(x.data), (x,), lambda dy: (div(dy, add(mul(x, x), 1.0)),))


asin, acos, atan = arcsin, arccos, arctan


def sinh(input: Tensor) -> Tensor:
    """sinh x;  dx = dy * cosh x."""
    x = float_operand("sinh", input)
    with quiet(all="ignore"):
        return record("sinh", array_module(x.data).sinh(x.data), (x,), lambda dy: (mul(dy, cosh(x)),))


def cosh(input: Tensor) -> Tensor:
    """cosh x;  dx = dy * sinh x."""
    x = float_operand("cosh", input)
    with quiet(all="ignore"):
        return record("cosh", array_module(x.data).cosh(x.data), (x,), lambda dy: (mul(dy, sinh(x)),))


# --- magnitude, rounding, selection ----------------------------------------------------------------------------------


def abs(input: Tensor) -> Tensor:
    """|x|;  dx = dy * sign(x), 0 at 0."""
    x = as_tensor("abs", input)
    if x.data.dtype.kind == "b":
        raise TypeError("abs: the tensor is bool; expected numbers")
    return record("abs", array_module(x.data).abs(x.data), (x,), lambda dy: (mul(dy, sign(x)),))


def sign(input: Tensor) -> Tensor:
    """-1, 0 or 1 by the sign of x; its gradient is zero."""
    x = as_tensor("sign", input)
    if x.data.dtype.kind == "b":
        return wrap(x.data.copy())
    return record("sign", array_module(x.data).sign(x.data), (x,), lambda dy: (zeros_like(dy),))


def _stepwise(name: str, doc: str) -> Any:
    def op(input: Tensor) -> Tensor:
        x = as_tensor(name, input)
        if x.data.dtype.kind != "f":
            return wrap(x.data.copy())
        y = getattr(array_module(x.data), name)(x.data)
        return record(name, y, (x,), lambda dy: (zeros_like(dy),))

    op.__name__ = op.__qualname__ = name
    op.__doc__ = doc + " Its gradient is zero, as in PyTorch."
    return op


floor = _stepwise("floor", "The largest integer <= x.")
ceil = _stepwise("ceil", "The smallest integer >= x.")
trunc = _stepwise("trunc", "x without its fraction.")
round = _stepwise("round", "The nearest integer, halves to even.")


def maximum(input: Any, other: Any) -> Tensor:
    """The larger of a and b (nan if either is); the gradient goes to the larger, half to each of equals."""
    return _extremum("maximum", input, other)


def minimum(input: Any, other: Any) -> Tensor:
    """The smaller of a and b (nan if either is); the gradient goes to the smaller, half to each of equals."""
    return _extremum("minimum", input, other)


def _extremum(name: str, input: Any, other: Any) -> Tensor:
    a, b = binary(name, input, other)

    def rule(dy: Tensor) -> tuple:
        larger, smaller = (a, b) if name == "maximum" else (b, a)
        tie = mul(cast(wrap(a.data == b.data), dy.dtype), 0.5)
        lost = cast(wrap(larger.data < smaller.data), dy.dtype)  # by a; by b it is the other way round
        won = cast(wrap(larger.data > smaller.data), dy.dtype)
        # Beside a nan neither is lost, and both get the gradient, as in PyTorch.
        da = mul(dy, sub(1.0, add(lost, tie))) if a.requires_grad else None
        return da, mul(dy, sub(1.0, add(won, tie))) if b.requires_grad else None

    return record(name, getattr(array_module(a.data), name)(a.data, b.data), (a, b), rule)


def clamp(input: Tensor, min: Any = None, max: Any = None) -> Tensor:
    """x cut to [min, max]; the gradient passes where x is within (bounds included), the rest goes to the bound."""
    if min is None and max is None:
        raise ValueError("clamp: min and max are both None; expected at least one")
    y = as_tensor("clamp", input)
    if min is not None:
        y = _bounded("clamp", y, min, below=True)
    return y if max is None else _bounded("clamp", y, max, below=False)


def _bounded(name: str, input: Tensor, bound: Any, *, below: bool) -> Tensor:
    x, b = binary(name, input, bound)
    xp = array_module(x.data)

    def rule(dy: Tensor) -> tuple:
        inside = wrap(x.data >= b.data if below else x.data <= b.data)
        outside = wrap(x.data < b.data if below else x.data > b.data)
        zero = wrap(xp.zeros((), dy.data.dtype))
        dx = where(inside, dy, zero) if x.requires_grad else None
        return dx, where(outside, dy, zero) if b.requires_grad else None

    return record(name, (xp.maximum if below else xp.minimum)(x.data, b.data), (x, b), rule)


clip = clamp


def where(condition: Any, input: Any, other: Any) -> Tensor:
    """a where the condition holds, else b, all three broadcast. Raises TypeError unless the condition is bool."""
    condition = as_tensor("where", condition)
    if condition.data.dtype.kind != "b":
        raise TypeError(f"where: the condition is {condition.dtype}; expected bool")
    a, b = binary("where", input, other)
    broadcast_shape("where", condition.data.shape, a.data.shape, b.data.shape)
    xp = array_module(a.data)
    first, second = a.requires_grad, b.requires_grad

    def rule(dy: Tensor) -> tuple:
        zero = wrap(xp.zeros((), dy.data.dtype))
        return where(condition, dy, zero) if first else None, where(condition, zero, dy) if second else None

    return record("where", xp.where(condition.data, a.data, b.data), (a, b), rule)


def masked_fill(input: Tensor, mask: Tensor, value: Any) -> Tensor:
    """x with `value` where the mask holds; the mask broadcasts to x."""
    x, mask = as_tensor("masked_fill", input), as_tensor("masked_fill", mask)
    if mask.data.dtype.kind != "b":
        raise TypeError(f"masked_fill: the mask is {mask.dtype}; expected bool")
    if broadcast_shape("masked_fill", x.data.shape, mask.data.shape) != x.data.shape:
        raise ValueError(f"masked_fill: the mask is {mask.shape} but x is {x.shape}; expected it to broadcast to x")
    return where(mask, cast(as_tensor("masked_fill", value, x), x.dtype), x)


# --- comparison and logic: no gradients ------------------------------------------------------------------------------


def _comparison(name: str, symbol: str, xp_name: str) -> Any:
    def op(input: Any, other: Any) -> Tensor:
        a, b = binary(name, input, other)
        return wrap(getattr(array_module(a.data), xp_name)(a.data, b.data))

    op.__name__ = op.__qualname__ = name
    op.__doc__ = f"a {symbol} b elementwise, broadcast; a bool tensor."
    return op


eq = _comparison("eq", "==", "equal")
ne = _comparison("ne", "!=", "not_equal")
lt = _comparison("lt", "<", "less")
le = _comparison("le", "<=", "less_equal")
gt = _comparison("gt", ">", "greater")
ge = _comparison("ge", ">=", "greater_equal")
logical_and = _comparison("logical_and", "and", "logical_and")
logical_or = _comparison("logical_or", "or", "logical_or")
logical_xor = _comparison("logical_xor", "xor", "logical_xor")


def _bitwise(name: str, symbol: str) -> Any:
    def op(input: Any, other: Any) -> Tensor:
        a, b = binary(name, input, other)
        if a.data.dtype.kind == "f":
            raise TypeError(f"{name}: the operands are {a.dtype}; expected bool or integer tensors")
        return wrap(getattr(array_module(a.data), name)(a.data, b.data))

    op.__name__ = op.__qualname__ = name
    op.__doc__ = f"a {symbol} b on the bits of bool or integer tensors, broadcast."
    return op


bitwise_and = _bitwise("bitwise_and", "&")
bitwise_or = _bitwise("bitwise_or", "|")
bitwise_xor = _bitwise("bitwise_xor", "^")


def logical_not(input: Any) -> Tensor:
    """not x elementwise; a bool tensor."""
    x = as_tensor("logical_not", input)
    return wrap(array_module(x.data).logical_not(x.data))


def bitwise_not(input: Any) -> Tensor:
    """~x on the bits of a bool or integer tensor."""
    x = as_tensor("bitwise_not", input)
    if x.data.dtype.kind == "f":
        raise TypeError(f"bitwise_not: the tensor is {x.dtype}; expected bool or integers")
    return wrap(~x.data)


def isnan(input: Any) -> Tensor:
    """Where x is nan."""
    x = as_tensor("isnan", input)
    return wrap(array_module(x.data).isnan(x.data))


def isinf(input: Any) -> Tensor:
    """Where x is infinite."""
    x = as_tensor("isinf", input)
    return wrap(array_module(x.data).isinf(x.data))


def isfinite(input: Any) -> Tensor:
    """Where x is neither nan nor infinite."""
    x = as_tensor("isfinite", input)
    return wrap(array_module(x.data).isfinite(x.data))


def allclose(input: Any, other: Any, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False) -> bool:
    """Whether |a - b| <= atol + rtol * |b| everywhere."""
    a, b = binary("allclose", input, other)
    return bool(array_module(a.data).allclose(a.data, b.data, rtol=rtol, atol=atol, equal_nan=equal_nan))


def equal(input: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same shape and elements."""
    return input.data.shape == other.data.shape and bool((input.data == other.data).all())
