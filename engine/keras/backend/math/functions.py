"""Functions that NumPy does not have: the largest k, log sum exp, errors of the normal distribution."""

from __future__ import annotations

from typing import Any

import tilegrad as tg
from tilegrad import dtypes
from tilegrad.keras.backend.core.convert import convert_to_tensor
from tilegrad.keras.backend.operands import axes_of, counted, floating
from tilegrad.tensor import Tensor


def top_k(x: Any, k: int, sorted: bool = True) -> tuple[Tensor, Tensor]:
    """The k largest along the last axis, and their places, int32."""
    values, at = tg.topk(convert_to_tensor(x), k)
    return values, counted(at)


def in_top_k(targets: Any, predictions: Any, k: int) -> Tensor:
    """Whether the class that targets says is among the k largest of its row."""
    labels, rows = convert_to_tensor(targets, dtype="int64"), convert_to_tensor(predictions)
    inside = tg.logical_and(labels >= 0, labels < rows.shape[-1])
    safe = tg.where(inside, labels, 0).unsqueeze(-1)
    own = tg.take_along_dim(rows, safe, -1)
    above = tg.sum(rows > own, -1)
    return tg.logical_and(tg.logical_and(inside, tg.isfinite(own.squeeze(-1))), above < k)


def logsumexp(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """log sum e^x, without overflow."""
    x = floating(x)
    return tg.logsumexp(x, tuple(range(x.ndim)) if axis is None else axes_of(axis), keepdims)


def rsqrt(x: Any) -> Tensor:
    """1 / sqrt(x)."""
    return tg.rsqrt(floating(x))


def segment_sum(data: Any, segment_ids: Any, num_segments: int | None = None, sorted: bool = False) -> Tensor:
    """Rows added by the segment that segment_ids says; those of no segment are left out."""
    x, at = convert_to_tensor(data), convert_to_tensor(segment_ids).to(dtypes.int64)
    count = int(at.max().item()) + 1 if num_segments is None else num_segments
    at = tg.where(tg.logical_and(at >= 0, at < count), at, count)
    zeros = tg.zeros(count + 1, *x.shape[1:], dtype=x.dtype, device=x.device)
    return tg.scatter_add(zeros, 0, at.reshape(-1, *[1] * (x.ndim - 1)).expand(x.shape), x)[:count]
