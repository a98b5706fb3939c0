"""Rows of one segment reduced to one row."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

import tilegrad as tg
from tilegrad import dtypes
from tilegrad.keras.backend.core.convert import convert_to_tensor
from tilegrad.keras.backend.hosted import differentiable, host, like
from tilegrad.tensor import Tensor


def segment_sum(data: Any, segment_ids: Any, num_segments: int | None = None, sorted: bool = False) -> Tensor:
    """The sum of each segment's rows; rows of a segment that is out of range are left out."""
    x, at, count = _rows(data, segment_ids, num_segments)
    index = at.reshape(-1, *[1] * (x.ndim - 1)).expand(x.shape)
    sums = tg.zeros(count + 1, *x.shape[1:], dtype=x.dtype, device=x.device)
    return tg.scatter_add(sums, 0, index, x)[:count]


def segment_max(data: Any, segment_ids: Any, num_segments: int | None = None, sorted: bool = False) -> Tensor:
    """The largest of each segment's rows; the dtype's least where there are none."""
    return _extremum("segment_max", np.maximum, data, segment_ids, num_segments)


def segment_min(data: Any, segment_ids: Any, num_segments: int | None = None, sorted: bool = False) -> Tensor:
    """The smallest of each segment's rows; the dtype's largest where there are none."""
    return _extremum("segment_min", np.minimum, data, segment_ids, num_segments)


def _extremum(name: str, of_two: Any, data: Any, segment_ids: Any, num_segments: int | None) -> Tensor:
    x, at, count = _rows(data, segment_ids, num_segments)
    least, most = _ends(x.dtype)
    y = np.full((count + 1, *x.shape[1:]), least if of_two is np.maximum else most, x.dtype)
    of_two.at(y, host(at), host(x))

    def rule(dy: Tensor) -> tuple:
        padded = tg.cat([dy, tg.zeros_like(dy[:1])]) if count else tg.zeros(1, *x.shape[1:], device=x.device)
        values = tg.as_tensor(y, device=x.device)
        chosen = (x == values[at]).to(dy.dtype)
        shares = tg.div(chosen, segment_sum(chosen, at, count + 1)[at])  # equal ones share
        return (tg.mul(padded[at], shares),)

    return differentiable(name, like(y[:count], x), [x], rule)


def _ends(dtype: np.dtype) -> tuple[Any, Any]:
    if dtype in dtypes.FLOATS:
        return -np.inf, np.inf
    if dtype == dtypes.bool_:
        return False, True
    info = ml_dtypes.iinfo(dtype)
    return info.min, info.max


def segment_prod(data: Any, segment_ids: Any, num_segments: int | None = None, sorted: bool = False) -> Tensor:
    """The product of each segment's rows; 1 where there are none."""
    x, at, count = _rows(data, segment_ids, num_segments)
    y = np.ones((count + 1, *x.shape[1:]), x.dtype)
    np.multiply.at(y, host(at), host(x))

    def rule(dy: Tensor) -> tuple:
        zero = x == 0
        others = tg.where(zero, 1.0, x)
        zeros = segment_sum(zero.to(dy.dtype), at, count + 1)[at]
        rest = tg.div(segment_prod(others, at, count + 1)[at], others)  # of the segment without this one, and zeros
        alone = tg.sub(zeros, zero.to(dy.dtype)) == 0
        padded = tg.cat([dy, tg.zeros_like(dy[:1])])
        return (tg.mul(padded[at], tg.where(alone, rest, 0.0)),)

    return differentiable("segment_prod", like(y[:count], x), [x], rule)


def _rows(data: Any, segment_ids: Any, num_segments: int | None) -> tuple[Tensor, Tensor, int]:
    """(rows, segment of each, number of segments); a segment that is out of range becomes the one behind the last."""
    x, at = convert_to_tensor(data), convert_to_tensor(segment_ids).to(dtypes.int64)
    if num_segments is None:
        num_segments = int(at.max().item()) + 1 if at.numel() else 0
    inside = tg.logical_and(at >= 0, at < num_segments)
    return x, tg.where(inside, at, num_segments), num_segments
