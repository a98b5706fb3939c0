"""Counts, histograms and correlations."""

from __future__ import annotations

from typing import Any

import numpy as np

import tilegrad as tg
from tilegrad import dtypes
from tilegrad.keras.backend.core.convert import convert_to_tensor
from tilegrad.keras.backend.operands import floating, promoted
from tilegrad.tensor import Tensor


def bincount(x: Any, weights: Any = None, minlength: int = 0, sparse: bool = False) -> Tensor:
    """How often each of 0, 1, ... is there, or the sum of its weights; of (rows, n) row by row."""
    if sparse:
        raise ValueError("`sparse=True` is not supported with the tilegrad backend")
    at = convert_to_tensor(x).to(dtypes.int64)
    length = max(int(at.max().item()) + 1 if at.numel() else 0, int(minlength or 0))
    if weights is None:
        values = tg.ones(at.shape, dtype=dtypes.int32, device=at.device)
    else:
        values = convert_to_tensor(weights)
    sums = tg.zeros(*at.shape[:-1], length, dtype=values.dtype, device=at.device)
    return tg.scatter_add(sums, -1, at, values)


def histogram(x: Any, bins: Any = 10, range: Any = None) -> tuple[Tensor, Tensor]:
    """How many numbers are in each bin, the last of which holds its end; and where the bins end."""
    x = convert_to_tensor(x).detach().reshape(-1)
    if not isinstance(bins, int):
        edges = floating(bins)
    else:
        if range is None:
            low, high = (x.min().item(), x.max().item()) if x.numel() else (0, 1)
        else:
            low, high = range
        if low == high:
            low, high = low - 0.5, high + 0.5
        edges = tg.as_tensor(np.linspace(low, high, bins + 1), dtype=floating(x).dtype, device=x.device)
    x, edges = [convert_to_tensor(value) for value in promoted(x, edges, least=float)]
    inside = tg.logical_and(x.unsqueeze(-1) >= edges[:-1], x.unsqueeze(-1) < edges[1:])
    counts = tg.sum(inside, 0)
    counts[-1] += tg.sum(x == edges[-1])
    return counts.to(dtypes.int32), edges


def corrcoef(x: Any) -> Tensor:
    """Pearson's correlations of the rows."""
    x = floating(x)
    rows = x.reshape(1, -1) if x.ndim < 2 else x
    rows = tg.sub(rows, tg.mean(rows, -1, True))
    products = tg.matmul(rows, rows.t())
    deviations = tg.sqrt(tg.diagonal(products))
    y = tg.clamp(tg.div(products, tg.mul(deviations.unsqueeze(-1), deviations)), -1.0, 1.0)
    return y.reshape(()) if x.ndim < 2 else y


def correlate(x1: Any, x2: Any, mode: str = "valid") -> Tensor:
    """Sums of products of two vectors at all shifts: valid (both overlap whole), same, or full."""
    a, b = [convert_to_tensor(value) for value in promoted(x1, x2, least=float)]
    if a.ndim != 1 or b.ndim != 1:
        raise ValueError(f"correlate: got {a.shape} and {b.shape}; expected two vectors")
    if mode not in ("valid", "same", "full"):
        raise ValueError(f"correlate: mode is {mode!r}; expected valid, same or full")
    n, m = len(a), len(b)
    zeros = tg.zeros(m - 1, dtype=a.dtype, device=a.device)
    padded = tg.cat([zeros, a, zeros])
    places = tg.arange(n + m - 1, device=a.device).unsqueeze(-1) + tg.arange(m, device=a.device)
    full = tg.matmul(padded[places], b)
    length = {"full": n + m - 1, "same": max(n, m), "valid": max(n, m) - min(n, m) + 1}[mode]
    begin = (n + m - 1 - length) // 2 if mode != "same" or n >= m else (n - 1) // 2 + (0 if n % 2 else 1)
    return full[begin : begin + length]
