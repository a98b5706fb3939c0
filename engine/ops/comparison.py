"""Comparison and logic, elementwise: bool results, no gradients."""

from __future__ import annotations

from typing import Any

from tilegrad import capture_hooks
from tilegrad.device import array_module
from tilegrad.dtypes import FLOATS
from tilegrad.ops.operands import as_tensor, binary, ordered, require_one_device
from tilegrad.tensor import Tensor, wrap


def _comparison(name: str, symbol: str, xp_name: str) -> Any:
    def op(input: Any, other: Any) -> Tensor:
        a, b = binary(name, input, other)
        return wrap(getattr(array_module(a.data), xp_name)(ordered(a.data), ordered(b.data)))

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
        if a.data.dtype in FLOATS:
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
    if x.data.dtype in FLOATS:
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
    x, y = ordered(capture_hooks.values(a)), ordered(capture_hooks.values(b))
    return bool(array_module(x).allclose(x, y, rtol=rtol, atol=atol, equal_nan=equal_nan))


def equal(input: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same shape and elements."""
    if not isinstance(other, Tensor):
        raise TypeError(f"equal: other is a {type(other).__name__}; expected a tensor")
    require_one_device("equal", input, other)
    if input.data.shape != other.data.shape:
        return False
    return bool((capture_hooks.values(input) == capture_hooks.values(other)).all())
