"""Arithmetic, magnitude and rounding, elementwise and broadcast.

Gradients come back with the result's shape; the walk sums them over broadcast dimensions.
"""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np

from tilegrad import capture_hooks, dtypes
from tilegrad.autograd.record import record
from tilegrad.device import array_module
from tilegrad.ops.elementwise import elementwise
from tilegrad.ops.operands import as_tensor, binary, cast, ordered, quiet, scalar, wide, zeros_like
from tilegrad.tensor import Tensor, wrap


def add(input: Any, other: Any, *, alpha: float = 1) -> Tensor:
    """a + alpha * b, broadcast."""
    a, b = binary("add", input, other)
    if type(alpha) is not int or alpha != 1:
        b = _times("add", b, alpha)
    with quiet():
        return record("add", elementwise(np.add, a._data, b._data), (a, b), lambda dy: (dy, dy))


def sub(input: Any, other: Any, *, alpha: float = 1) -> Tensor:
    """a - alpha * b, broadcast. Raises TypeError for two bools."""
    a, b = binary("sub", input, other)
    if a._data.dtype.kind == "b":
        raise TypeError("sub: both operands are bool; expected numbers (logical_xor is the difference of bools)")
    if type(alpha) is not int or alpha != 1:
        b = _times("sub", b, alpha)
    wanted = b.requires_grad
    with quiet():
        return record(
            "sub", elementwise(np.subtract, a._data, b._data), (a, b), lambda dy: (dy, neg(dy) if wanted else None)
        )


def _times(op: str, b: Tensor, alpha: Any) -> Tensor:
    alpha = scalar(op, "alpha", alpha)
    if dtypes.of_scalar(alpha) in dtypes.FLOATS and b._data.dtype not in dtypes.FLOATS:
        raise TypeError(f"{op}: alpha is {alpha} but the tensors are {b.dtype}; expected an int")
    return b if alpha == 1 else mul(b, bool(alpha) if b._data.dtype == dtypes.bool_ else alpha)


def mul(input: Any, other: Any) -> Tensor:
    """a * b, broadcast;  da = dy * b,  db = dy * a."""
    a, b = binary("mul", input, other)
    # Each operand is kept only for the other's gradient.
    for_a, for_b = b if a.requires_grad else None, a if b.requires_grad else None

    def rule(dy: Tensor) -> tuple:
        return None if for_a is None else mul(dy, for_a), None if for_b is None else mul(dy, for_b)

    with quiet():
        return record("mul", elementwise(np.multiply, a._data, b._data), (a, b), rule)


def div(input: Any, other: Any, *, rounding_mode: str | None = None) -> Tensor:
    """a / b, broadcast, integers as float32;  da = dy / b,  db = -dy * a / b^2.

    rounding_mode "floor" or "trunc" rounds the quotient (integers stay integers); the gradient is then zero.
    """
    if rounding_mode not in (None, "floor", "trunc"):
        raise ValueError(f"div: rounding_mode is {rounding_mode!r}; expected None, 'floor' or 'trunc'")
    if rounding_mode is not None:
        return floor_divide(input, other) if rounding_mode == "floor" else _trunc_divide(input, other)
    a, b = binary("div", input, other)
    if a.data.dtype not in dtypes.FLOATS:
        a, b = cast(a, dtypes.float32), cast(b, dtypes.float32)
    dividend = a if b.requires_grad else None
    wanted = a.requires_grad

    def rule(dy: Tensor) -> tuple:
        da = div(dy, b)
        return da if wanted else None, None if dividend is None else neg(mul(da, div(dividend, b)))

    with quiet():
        return record("div", elementwise(np.divide, a._data, b._data), (a, b), rule)


def floor_divide(input: Any, other: Any) -> Tensor:
    """floor(a / b); its gradient is zero. Raises ZeroDivisionError for an integer divisor of 0."""
    a, b = _divisible("floor_divide", input, other)
    with quiet():
        return record("floor_divide", a.data // b.data, (a, b), lambda dy: (zeros_like(dy), zeros_like(dy)))


def _trunc_divide(input: Any, other: Any) -> Tensor:
    a, b = _divisible("div", input, other)
    if a.data.dtype in dtypes.FLOATS:
        with quiet():
            y = array_module(a.data).trunc(ordered(a.data / b.data)).astype(a.data.dtype, copy=False)
        return record("div", y, (a, b), lambda dy: (zeros_like(dy), zeros_like(dy)))
    down = a.data // b.data
    return wrap(down + ((down < 0) & (down * b.data != a.data)).astype(down.dtype))  # exact, unlike a float quotient


def remainder(input: Any, other: Any) -> Tensor:
    """a - b * floor(a / b), with the sign of b;  da = dy,  db = -dy * floor(a / b)."""
    a, b = _divisible("remainder", input, other)
    operands = (a, b) if b.requires_grad else None

    def rule(dy: Tensor) -> tuple:
        return dy, None if operands is None else neg(mul(dy, floor_divide(*operands)))

    with quiet():
        return record("remainder", a.data % b.data, (a, b), rule)


def _divisible(op: str, input: Any, other: Any) -> tuple[Tensor, Tensor]:
    a, b = binary(op, input, other)
    if a.data.dtype.kind == "b":
        raise TypeError(f"{op}: both operands are bool; expected numbers")
    if b.data.dtype not in dtypes.FLOATS:
        capture_hooks.check(_require_no_zero, b, op)
    return a, b


def _require_no_zero(divisors: Any, op: str) -> None:
    if not divisors.all():
        raise ZeroDivisionError(f"{op}: the integer divisor holds a 0; expected none")


def neg(input: Any) -> Tensor:
    """-x."""
    x = as_tensor("neg", input)
    if x.data.dtype.kind == "b":
        raise TypeError("neg: the tensor is bool; expected numbers (logical_not is the negation of bools)")
    return record("neg", elementwise(np.negative, x._data), (x,), lambda dy: (neg(dy),))


def square(input: Tensor) -> Tensor:
    """x * x; bools as int64, as in PyTorch."""
    x = as_tensor("square", input)
    x = cast(x, dtypes.int64) if x.data.dtype.kind == "b" else x
    return mul(x, x)


def abs(input: Tensor) -> Tensor:
    """|x|;  dx = dy * sign(x), 0 at 0 and at nan."""
    x = as_tensor("abs", input)
    if x.data.dtype.kind == "b":
        raise TypeError("abs: the tensor is bool; expected numbers")
    return record("abs", elementwise(np.absolute, x._data), (x,), lambda dy: (mul(dy, sign(x)),))


def sign(input: Tensor) -> Tensor:
    """-1, 0 or 1 by the sign of x, 0 of nan as in PyTorch; its gradient is zero."""
    x = as_tensor("sign", input)
    if x.data.dtype.kind == "b":
        return wrap(x.data.copy())
    value = ordered(x.data)
    y = (value > 0).astype(x.data.dtype) - (value < 0).astype(x.data.dtype)
    return record("sign", y, (x,), lambda dy: (zeros_like(dy),))


def floor(input: Tensor) -> Tensor:
    """The largest integer <= x. Its gradient is zero, as in PyTorch."""
    return _stepwise("floor", input)


def ceil(input: Tensor) -> Tensor:
    """The smallest integer >= x. Its gradient is zero, as in PyTorch."""
    return _stepwise("ceil", input)


def trunc(input: Tensor) -> Tensor:
    """x without its fraction. Its gradient is zero, as in PyTorch."""
    return _stepwise("trunc", input)


def _stepwise(name: str, input: Tensor) -> Tensor:
    x = as_tensor(name, input)
    if x.data.dtype not in dtypes.FLOATS:
        return wrap(x.data.copy())
    y = getattr(array_module(x.data), name)(ordered(x.data)).astype(x.data.dtype, copy=False)
    return record(name, y, (x,), lambda dy: (zeros_like(dy),))


def round(input: Tensor, *, decimals: int = 0) -> Tensor:
    """The nearest integer, halves to even; or the nearest multiple of 10^-decimals. Its gradient is zero.

    As in PyTorch, x is scaled by 10^decimals first, which rounds. Raises TypeError for integers with decimals.
    """
    x = as_tensor("round", input)
    if decimals == 0:
        return _stepwise("round", x)
    if x.data.dtype not in dtypes.FLOATS:
        raise TypeError(f"round: the tensor is {x.dtype} and decimals {decimals}; expected a floating-point tensor")
    xp, scale = array_module(x.data), 10.0 ** builtins.abs(decimals)
    with quiet():
        value = wide(x.data)
        y = xp.rint(value * scale) / scale if decimals > 0 else xp.rint(value / scale) * scale
        y = y.astype(x.data.dtype, copy=False)
    return record("round", y, (x,), lambda dy: (zeros_like(dy),))
