"""Sparsemax: the nearest point of the simplex (Martins & Astudillo, "From softmax to sparsemax", ICML 2016)."""

from __future__ import annotations

from typing import Any

import tilegrad as tg
from tilegrad.keras.backend.operands import floating
from tilegrad.tensor import Tensor


def sparsemax(x: Any, axis: int = -1) -> Tensor:
    """max(x - tau, 0), with the tau that makes the sum 1."""
    x = floating(x).movedim(axis, -1)
    ordered = tg.flip(tg.sort(x, -1)[0], (-1,))
    sums = tg.cumsum(ordered, -1)
    count = tg.arange(1, x.shape[-1] + 1, device=x.device).to(x.dtype)
    inside = tg.add(1.0, tg.mul(count, ordered)) > sums
    k = tg.sum(inside, -1, True)
    tau = tg.div(tg.sub(tg.take_along_dim(sums, k - 1, -1), 1.0), k.to(x.dtype))
    return tg.clamp(tg.sub(x, tau), 0.0).movedim(-1, axis)
