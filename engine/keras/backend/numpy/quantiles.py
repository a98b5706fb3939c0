"""Quantiles: values below which a share of all lies (Hyndman & Fan, "Sample quantiles", 1996)."""

from __future__ import annotations

import math
from typing import Any

import tilegrad as tg
from tilegrad import dtypes
from tilegrad.keras.backend.core.convert import convert_to_tensor
from tilegrad.keras.backend.operands import axes_of, floating, over
from tilegrad.ops.operands import normalize_axes
from tilegrad.tensor import Tensor

METHODS = "linear", "lower", "higher", "midpoint", "nearest"


def quantile(x: Any, q: Any, axis: Any = None, method: str = "linear", keepdims: bool = False) -> Tensor:
    """The q-th quantile; q's dimensions come first. nan where one of the numbers is nan."""
    x = floating(x)
    y = _quantile(x, q, axis, method, keepdims)
    return tg.where(over(tg.any, tg.isnan(x), axis, keepdims), math.nan, y)


def nanquantile(x: Any, q: Any, axis: Any = None, method: str = "linear", keepdims: bool = False) -> Tensor:
    """The q-th quantile of what is a number; nan where nothing is."""
    return _quantile(floating(x), q, axis, method, keepdims)


def percentile(x: Any, q: Any, axis: Any = None, method: str = "linear", keepdims: bool = False) -> Tensor:
    """The quantile of q hundredths."""
    return quantile(x, _hundredths(q), axis, method, keepdims)


def nanpercentile(x: Any, q: Any, axis: Any = None, method: str = "linear", keepdims: bool = False) -> Tensor:
    """The quantile of q hundredths of what is a number."""
    return nanquantile(x, _hundredths(q), axis, method, keepdims)


def median(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The number in the middle, or the mean of the two there."""
    return quantile(x, 0.5, axis, keepdims=keepdims)


def _hundredths(q: Any) -> Any:
    return q / 100 if isinstance(q, (int, float)) else tg.div(floating(q), 100.0)


def _quantile(x: Tensor, q: Any, axis: Any, method: str, keepdims: bool) -> Tensor:
    if method not in METHODS:
        raise ValueError(f"quantile: method is {method!r}; expected one of {METHODS}")
    q = convert_to_tensor(q, dtype="float64" if x.dtype == dtypes.float64 else "float32")
    axes = normalize_axes("quantile", axes_of(axis), x.ndim) if axes_of(axis) != () else ()
    kept = [d for d in range(x.ndim) if d not in axes]
    rows = x.permute(*kept, *axes).reshape(*[x.shape[d] for d in kept], -1)
    rows = tg.sort(rows, -1)[0]  # nan is the largest
    last = tg.sub(tg.sum(tg.logical_not(tg.isnan(rows)), -1).to(q.dtype), 1.0)
    place = tg.mul(q.reshape(*q.shape, *[1] * last.ndim), last)  # (*q, *kept)
    low, high = tg.floor(place), tg.ceil(place)
    weight = {
        "linear": tg.sub(place, low),
        "lower": tg.zeros_like(place),
        "higher": tg.ones_like(place),
        "midpoint": tg.where(low == high, 0.0, 0.5),
        "nearest": tg.where(tg.sub(tg.round(place), low) > 0, 1.0, 0.0),
    }[method].to(x.dtype)

    def at(index: Tensor) -> Tensor:
        index = tg.clamp(index, 0, rows.shape[-1] - 1).to(dtypes.int64)
        some = rows.broadcast_to((*q.shape, *rows.shape))
        return tg.take_along_dim(some, index.unsqueeze(-1), -1).squeeze(-1)

    below, above = at(low), at(high)
    y = tg.where(weight == 0, below, tg.add(tg.mul(below, tg.sub(1.0, weight)), tg.mul(above, weight)))
    y = tg.where(last < 0, math.nan, y).to(x.dtype)
    if keepdims:
        y = y.reshape(*q.shape, *[1 if d in axes else n for d, n in enumerate(x.shape)])
    return y
