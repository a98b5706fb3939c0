"""Comparison and logic, elementwise: bool results, no gradients."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilegrad import capture_hooks
from tilegrad.device import array_module
from tilegrad.dtypes import FLOATS
from tilegrad.ops.elementwise import elementwise
from tilegrad.ops.operands import as_tensor, binary, ordered, require_one_device
from tilegrad.tensor import Tensor, wrap


def eq(input: Any, other: Any) -> Tensor:
    """a == b elementwise, broadcast; a bool tensor."""
    a, b = _compared("eq", input, other)
    return wrap(elementwise(np.equal, a, b))


def ne(input: Any, other: Any) -> Tensor:
    """a != b elementwise, broadcast; a bool tensor."""
    a, b = _compared("ne", input, other)
    return wrap(elementwise(np.not_equal, a, b))


def lt(input: Any, other: Any) -> Tensor:
    """a < b elementwise, broadcast; a bool tensor."""
    a, b = _compared("lt", input, other)
    return wrap(elementwise(np.less, a, b))


def le(input: Any, other: Any) -> Tensor:
    """a <= b elementwise, broadcast; a bool tensor."""
    a, b = _compared("le", input, other)
    return wrap(elementwise(np.less_equal, a, b))


def gt(input: Any, other: Any) -> Tensor:
    """a > b elementwise, broadcast; a bool tensor."""
    a, b = _compared("gt", input, other)
    return wrap(elementwise(np.greater, a, b))


def ge(input: Any, other: Any) -> Tensor:
    """a >= b elementwise, broadcast; a bool tensor."""
    a, b = _compared("ge", input, other)
    return wrap(elementwise(np.greater_equal, a, b))


def logical_and(input: Any, other: Any) -> Tensor:
    """a and b elementwise, broadcast; a bool tensor."""
    a, b = _compared("logical_and", input, other)
    return wrap(elementwise(np.logical_and, a, b))


def logical_or(input: Any, other: Any) -> Tensor:
    """a or b elementwise, broadcast; a bool tensor."""
    a, b = _compared("logical_or", input, other)
    return wrap(elementwise(np.logical_or, a, b))


def logical_xor(input: Any, other: Any) -> Tensor:
    """a xor b elementwise, broadcast; a bool tensor."""
    a, b = _compared("logical_xor", input, other)
    return wrap(elementwise(np.logical_xor, a, b))


def _compared(op: str, input: Any, other: Any) -> tuple[Any, Any]:
    """Both operands' arrays, in one dtype that compares right."""
    a, b = binary(op, input, other)
    return ordered(a.data), ordered(b.data)


def bitwise_and(input: Any, other: Any) -> Tensor:
    """a & b on the bits of bool or integer tensors, broadcast."""
    xp, a, b = _bits("bitwise_and", input, other)
    return wrap(xp.bitwise_and(a, b))


def bitwise_or(input: Any, other: Any) -> Tensor:
    """a | b on the bits of bool or integer tensors, broadcast."""
    xp, a, b = _bits("bitwise_or", input, other)
    return wrap(xp.bitwise_or(a, b))


def bitwise_xor(input: Any, other: Any) -> Tensor:
    """a ^ b on the bits of bool or integer tensors, broadcast."""
    xp, a, b = _bits("bitwise_xor", input, other)
    return wrap(xp.bitwise_xor(a, b))


def _bits(op: str, input: Any, other: Any) -> tuple[Any, Any, Any]:
    a, b = binary(op, input, other)
    if a.data.dtype in FLOATS:
        raise TypeError(f"{op}: the operands are {a.dtype}; expected bool or integer tensors")
    return array_module(a.data), a.data, b.data


def logical_not(input: Any) -> Tensor:
    """not x elementwise; a bool tensor."""
    x = as_tensor("logical_not", input)
    return wrap(elementwise(np.logical_not, x.data))


def bitwise_not(input: Any) -> Tensor:
    """~x on the bits of a bool or integer tensor."""
    x = as_tensor("bitwise_not", input)
    if x.data.dtype in FLOATS:
        raise TypeError(f"bitwise_not: the tensor is {x.dtype}; expected bool or integers")
    return wrap(~x.data)


def isnan(input: Any) -> Tensor:
    """Where x is nan."""
    x = as_tensor("isnan", input)
    return wrap(elementwise(np.isnan, x.data))


def isinf(input: Any) -> Tensor:
    """Where x is infinite."""
    x = as_tensor("isinf", input)
    return wrap(elementwise(np.isinf, x.data))


def isfinite(input: Any) -> Tensor:
    """Where x is neither nan nor infinite."""
    x = as_tensor("isfinite", input)
    return wrap(elementwise(np.isfinite, x.data))


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
