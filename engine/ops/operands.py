"""What every op does first: turn its arguments into tensors of one dtype and device, and check that shapes fit."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any

import numpy as np

from engine import dtypes
from engine.autograd import record
from engine.device import array_module, device_of, is_array
from engine.tensor import Tensor, adopted, wrap

# Division by zero, overflow and invalid values give inf and nan without a word, as in PyTorch.
quiet = np.errstate


def as_tensor(op: str, x: Any, like: Tensor | None = None) -> Tensor:
    """x as a tensor: an array is wrapped; a number gets the dtype and device of `like`, or the dtype of its own."""
    if isinstance(x, Tensor):
        return x
    if is_array(x):
        return wrap(adopted(op, x))
    if isinstance(x, (bool, int, float, np.generic)):
        if like is None:
            return wrap(np.asarray(x, dtypes.of_scalar(x)))
        return number(op, x, like.dtype, array_module(like.data))
    raise TypeError(f"{op}: expected a tensor or a number; got {type(x).__name__}")


def number(op: str, x: Any, dtype: np.dtype, xp: Any = np) -> Tensor:
    """A number as a tensor of this dtype, rounded once. Raises ValueError for an integer that the dtype cannot hold."""
    try:
        if abs(x) <= 65504:  # the largest float16: no dtype overflows, and there is nothing to be quiet about
            return wrap(xp.asarray(x, dtype))
        with quiet(all="ignore"):
            return wrap(xp.asarray(x, dtype))
    except (OverflowError, ValueError):
        raise ValueError(f"{op}: {x} does not fit {dtype}; expected a number that does") from None


def cast(x: Tensor, dtype: np.dtype) -> Tensor:
    """x in another dtype, with the gradient cast back; x itself where it has that dtype."""
    if x.data.dtype == dtype:
        return x
    with quiet(all="ignore"):
        y = x.data.astype(dtype)
    return record("to", y, (x,), lambda dy: (dy,))


def zeros_like(x: Tensor) -> Tensor:
    """Zeros of x's shape and dtype: the gradient of what changes nothing."""
    return wrap(array_module(x.data).zeros_like(x.data))


def binary(op: str, a: Any, b: Any) -> tuple[Tensor, Tensor]:
    """Both operands as tensors of their common dtype (engine.dtypes), on one device, of shapes that broadcast."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if a.data.dtype != b.data.dtype:
            dtype = dtypes.promote(a.data, b.data)
            a, b = cast(a, dtype), cast(b, dtype)
    else:
        a, b = _with_number(op, a, b)
    x, y = a.data, b.data
    if type(x) is not type(y):
        raise TypeError(f"{op}: operands are on {device_of(x)} and {device_of(y)}; expected one device")
    if x.shape != y.shape and x.ndim and y.ndim:
        broadcast_shape(op, x.shape, y.shape)
    return a, b


def _with_number(op: str, a: Any, b: Any) -> tuple[Tensor, Tensor]:
    if isinstance(a, Tensor) and dtypes.absorbs(a.data.dtype, b):  # what follows, without the detours
        return a, number(op, b, a.data.dtype, array_module(a.data))
    a, b = (x if isinstance(x, (bool, int, float, np.generic)) else as_tensor(op, x) for x in (a, b))
    dtype = dtypes.promote(*(x.data if isinstance(x, Tensor) else x for x in (a, b)))
    like = a if isinstance(a, Tensor) else b
    xp = array_module(like.data) if isinstance(like, Tensor) else np
    # A number takes the common dtype directly: 0.1 becomes the nearest float64 next to a float64 tensor.
    a, b = (cast(x, dtype) if isinstance(x, Tensor) else number(op, x, dtype, xp) for x in (a, b))
    return a, b


def broadcast_shape(op: str, *shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that these broadcast to. Raises ValueError naming them if they do not."""
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        listed = " and ".join(str(tuple(s)) for s in shapes)
        raise ValueError(f"{op}: shapes {listed} do not broadcast; expected equal sizes or 1, from the right") from None


def float_operand(op: str, x: Any) -> Tensor:
    """x as a floating-point tensor: integers and bools become float32, as in PyTorch's float functions."""
    x = as_tensor(op, x)
    return x if x.data.dtype.kind == "f" else cast(x, dtypes.float32)


def require_float(op: str, *tensors: Tensor | None) -> None:
    """Raise TypeError unless all (None is passed over) are tensors of one floating dtype on one device."""
    first = None
    for x in tensors:
        if x is None:
            continue
        if not isinstance(x, Tensor):
            raise TypeError(f"{op}: expected tensors; got {type(x).__name__}")
        if x.data.dtype.kind != "f":
            raise TypeError(f"{op}: expected a floating-point tensor; got {x.data.dtype}")
        if first is None:
            first = x
        elif x.data.dtype != first.data.dtype:
            raise TypeError(f"{op}: dtypes are {first.data.dtype} and {x.data.dtype}; expected one for all")
        elif type(x.data) is not type(first.data):
            raise TypeError(f"{op}: tensors are on {first.device} and {x.device}; expected one device")


def normalize_axis(op: str, axis: Any, ndim: int) -> int:
    """A dimension counted from the left. Raises IndexError if it is out of range (0-dim tensors admit 0 and -1)."""
    if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)):
        raise TypeError(f"{op}: expected dim to be an int; got {axis!r}")
    span = max(ndim, 1)
    if not -span <= axis < span:
        raise IndexError(f"{op}: dim is {axis}; expected {-span} <= dim < {span} for a tensor of {ndim} dimensions")
    return int(axis) % span


def normalize_axes(op: str, axes: int | Sequence[int] | None, ndim: int) -> tuple[int, ...]:
    """Dimensions counted from the left; None (and, as in PyTorch, an empty list) means all. Duplicates raise."""
    if not isinstance(axes, (tuple, list)):
        axes = () if axes is None else (axes,)
    if len(axes) == 0:
        return tuple(range(ndim))
    found = tuple(normalize_axis(op, axis, ndim) for axis in axes)
    if len(set(found)) != len(found):
        raise ValueError(f"{op}: dim is {tuple(axes)}; expected each dimension once")
    return found if ndim else ()


def shape_argument(op: str, shape: tuple[Any, ...]) -> tuple[int, ...]:
    """(2, 3) from either f(2, 3) or f((2, 3)). Raises TypeError for anything but integers."""
    try:
        if len(shape) == 1 and not isinstance(shape[0], int) and getattr(shape[0], "ndim", 1):
            shape = tuple(shape[0])
        return tuple([index(s) for s in shape])
    except TypeError:
        raise TypeError(f"{op}: got {shape!r}; expected ints, or one sequence of them") from None
