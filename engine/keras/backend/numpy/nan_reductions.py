"""Reductions that pass over nan."""

from __future__ import annotations

import math
from typing import Any

import tilegrad as tg
from tilegrad import dtypes
from tilegrad.keras.backend.core.convert import convert_to_tensor
from tilegrad.keras.backend.numpy import reductions
from tilegrad.keras.backend.numpy.quantiles import nanquantile
from tilegrad.keras.backend.operands import floating, over
from tilegrad.tensor import Tensor


def _with(value: Any, x: Any) -> Tensor:
    """x with a value in place of nan."""
    x = convert_to_tensor(x)
    return tg.where(tg.isnan(x), value, x) if x.dtype in dtypes.FLOATS else x


def nansum(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The sum of what is a number."""
    return reductions.sum(_with(0.0, x), axis, keepdims)


def nanprod(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The product of what is a number."""
    return reductions.prod(_with(1.0, x), axis, keepdims)


def nancumsum(x: Any, axis: int | None = None, dtype: Any = None) -> Tensor:
    """Running sums of what is a number."""
    return reductions.cumsum(_with(0.0, x), axis, dtype)


def nancumprod(x: Any, axis: int | None = None, dtype: Any = None) -> Tensor:
    """Running products of what is a number."""
    return reductions.cumprod(_with(1.0, x), axis, dtype)


def _count(x: Tensor, axis: Any, keepdims: bool) -> Tensor:
    return over(tg.sum, tg.logical_not(tg.isnan(x)), axis, keepdims).to(x.dtype)


def nanmean(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The mean of what is a number; nan where nothing is."""
    x = floating(x)
    return tg.div(nansum(x, axis, keepdims), _count(x, axis, keepdims))


def nanvar(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The mean of (x - mean)^2 over what is a number."""
    x = floating(x)
    return nanmean(tg.square(tg.sub(x, nanmean(x, axis, True))), axis, keepdims)


def nanstd(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The square root of nanvar."""
    return tg.sqrt(nanvar(x, axis, keepdims))


def nanmax(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The largest number; nan where there is none."""
    return _extremum(reductions.max, -math.inf, x, axis, keepdims)


def nanmin(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The smallest number; nan where there is none."""
    return _extremum(reductions.min, math.inf, x, axis, keepdims)


def _extremum(reduction: Any, least: float, x: Any, axis: Any, keepdims: bool) -> Tensor:
    x = convert_to_tensor(x)
    y = reduction(_with(least, x), axis, keepdims)
    if x.dtype not in dtypes.FLOATS:
        return y
    return tg.where(over(tg.all, tg.isnan(x), axis, keepdims), math.nan, y)


def nanargmax(x: Any, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """The index of the first largest number, -1 where there is none; int32."""
    return _index(reductions.argmax, -math.inf, x, axis, keepdims)


def nanargmin(x: Any, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """The index of the first smallest number, -1 where there is none; int32."""
    return _index(reductions.argmin, math.inf, x, axis, keepdims)


def _index(op: Any, least: float, x: Any, axis: int | None, keepdims: bool) -> Tensor:
    x = convert_to_tensor(x)
    found = op(_with(least, x), axis, keepdims)
    if x.dtype not in dtypes.FLOATS:
        return found
    none = tg.all(tg.isnan(x), axis, keepdims)
    return tg.where(none.reshape(found.shape), -1, found).to(found.dtype)


def nanmedian(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The median of what is a number."""
    return nanquantile(x, 0.5, axis, keepdims=keepdims)
