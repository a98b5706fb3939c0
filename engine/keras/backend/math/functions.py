"""Functions that NumPy does not have: the largest k, log sum exp, errors of the normal distribution."""

from __future__ import annotations

from typing import Any

import tilegrad as tg
from tilegrad.keras.backend.core.convert import convert_to_tensor
from tilegrad.keras.backend.numpy.determinants import slogdet
from tilegrad.keras.backend.operands import axes_of, counted, floating
from tilegrad.tensor import Tensor


def top_k(x: Any, k: int, sorted: bool = True) -> tuple[Tensor, Tensor]:
    """The k largest along the last axis, and their places, int32."""
    values, at = tg.topk(convert_to_tensor(x), k)
    return values, counted(at)


def in_top_k(targets: Any, predictions: Any, k: int) -> Tensor:
    """Whether the class that targets says is among the k largest of its row."""
    labels, rows = convert_to_tensor(targets, dtype="int64"), convert_to_tensor(predictions)
    is_own = labels.unsqueeze(-1) == tg.arange(rows.shape[-1], device=rows.device)  # no place that a GPU has to check
    own = tg.sum(tg.where(is_own, rows, 0), -1)
    above = tg.sum(rows > own.unsqueeze(-1), -1)
    return tg.logical_and(tg.logical_and(tg.any(is_own, -1), tg.isfinite(own)), above < k)


def logsumexp(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """log sum e^x, without overflow."""
    x = floating(x)
    return tg.logsumexp(x, tuple(range(x.ndim)) if axis is None else axes_of(axis), keepdims)


def rsqrt(x: Any) -> Tensor:
    """1 / sqrt(x)."""
    return tg.rsqrt(floating(x))


def logdet(x: Any) -> Tensor:
    """The logarithm of the determinant; nan of a negative one."""
    sign, size = slogdet(x)
    return tg.where(sign > 0, size, tg.where(sign == 0, size, float("nan"))).to(size.dtype)
