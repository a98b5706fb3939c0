"""Sums, means, extrema, products and counts over axes; running sums."""

from __future__ import annotations

import math
from typing import Any

import tilegrad as tg
from tilegrad import dtypes
from tilegrad.keras.backend.core.convert import convert_to_tensor
from tilegrad.keras.backend.operands import axes_of, counted, floating, over, promoted, summed_dtype
from tilegrad.ops.operands import cast, normalize_axes
from tilegrad.tensor import Tensor


def sum(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The sum."""
    x = convert_to_tensor(x)
    return over(tg.sum, x, axis, keepdims, dtype=summed_dtype(x))


def mean(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The mean, in floats."""
    return over(tg.mean, floating(x), axis, keepdims)


def average(x: Any, axis: Any = None, weights: Any = None) -> Tensor:
    """The mean, weighted."""
    if weights is None:
        return mean(x, axis)
    x, weights = promoted(x, weights, least=float)
    if weights.ndim == 1 and x.ndim > 1 and axis is not None:
        shape = [1] * x.ndim
        shape[axis] = -1
        weights = weights.reshape(shape)
    weights = weights.broadcast_to(x.shape)
    return tg.div(over(tg.sum, tg.mul(x, weights), axis), over(tg.sum, weights, axis))


def var(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The mean of (x - mean)^2, in floats."""
    return over(tg.var, floating(x), axis, keepdims, correction=0)


def std(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The square root of var."""
    return over(tg.std, floating(x), axis, keepdims, correction=0)


def prod(x: Any, axis: Any = None, keepdims: bool = False, dtype: Any = None) -> Tensor:
    """The product."""
    x = convert_to_tensor(x)
    x = cast(x, summed_dtype(x, dtype))
    axes = normalize_axes("prod", axes_of(axis), x.ndim) if axes_of(axis) != () else ()
    for d in sorted(axes, reverse=True):
        x = tg.prod(x, d, keepdims, dtype=x.dtype)
    return x


def max(x: Any, axis: Any = None, keepdims: bool = False, initial: Any = None) -> Tensor:
    """The largest, or `initial` if that is larger."""
    return _extremum(tg.amax, tg.maximum, x, axis, keepdims, initial)


def min(x: Any, axis: Any = None, keepdims: bool = False, initial: Any = None) -> Tensor:
    """The smallest, or `initial` if that is smaller."""
    return _extremum(tg.amin, tg.minimum, x, axis, keepdims, initial)


def _extremum(reduction: Any, of_two: Any, x: Any, axis: Any, keepdims: bool, initial: Any) -> Tensor:
    x = convert_to_tensor(x)
    axes = normalize_axes("max", axes_of(axis), x.ndim) if axes_of(axis) != () else ()
    if initial is not None and 0 in [x.shape[d] for d in axes]:
        kept = [1 if d in axes else n for d, n in enumerate(x.shape) if keepdims or d not in axes]
        return tg.full(kept, initial, dtype=x.dtype, device=x.device)
    y = over(reduction, x, axis, keepdims)
    return y if initial is None else cast(of_two(y, initial), x.data.dtype)


def amax(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The largest."""
    return max(x, axis, keepdims)


def amin(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The smallest."""
    return min(x, axis, keepdims)


def ptp(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The largest minus the smallest."""
    return tg.sub(max(x, axis, keepdims), min(x, axis, keepdims))


def argmax(x: Any, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """The index of the first largest; int32."""
    return _index(tg.argmax, x, axis, keepdims)


def argmin(x: Any, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """The index of the first smallest; int32."""
    return _index(tg.argmin, x, axis, keepdims)


def _index(op: Any, x: Any, axis: int | None, keepdims: bool) -> Tensor:
    x = convert_to_tensor(x)
    y = counted(op(x, axis, keepdims and axis is not None))
    return y.reshape([1] * x.ndim) if keepdims and axis is None else y


def all(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Whether all are not 0."""
    return over(tg.all, convert_to_tensor(x, dtype="bool"), axis, keepdims)


def any(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Whether one is not 0."""
    return over(tg.any, convert_to_tensor(x, dtype="bool"), axis, keepdims)


def count_nonzero(x: Any, axis: Any = None) -> Tensor:
    """How many are not 0; int32."""
    return counted(over(tg.sum, convert_to_tensor(x) != 0, axis))


def cumsum(x: Any, axis: int | None = None, dtype: Any = None) -> Tensor:
    """Running sums, of the flattened tensor if there is no axis."""
    return _running(tg.cumsum, x, axis, dtype)


def cumprod(x: Any, axis: int | None = None, dtype: Any = None) -> Tensor:
    """Running products, of the flattened tensor if there is no axis."""
    return _running(tg.cumprod, x, axis, dtype)


def _running(op: Any, x: Any, axis: int | None, dtype: Any) -> Tensor:
    x = convert_to_tensor(x)
    if dtype is not None:
        x = cast(x, summed_dtype(x, dtype))
    elif x.dtype == dtypes.bool_:
        x = cast(x, dtypes.int32)
    x, axis = (x.reshape(-1), 0) if axis is None else (x, axis)
    return op(x, axis, dtype=x.dtype)


def size(x: Any) -> Tensor:
    """How many elements there are; int32."""
    return convert_to_tensor(math.prod(convert_to_tensor(x).shape), dtype="int32")
