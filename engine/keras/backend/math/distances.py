"""Distances of points."""

from __future__ import annotations

from typing import Any

import tilegrad as tg
from tilegrad.keras.backend.core.convert import convert_to_tensor
from tilegrad.keras.backend.operands import promoted
from tilegrad.tensor import Tensor


def cdist(x: Any, y: Any) -> Tensor:
    """(..., n, d), (..., m, d) -> (..., n, m): the Euclidean distance of each point of x to each of y."""
    a, b = [convert_to_tensor(value) for value in promoted(x, y, least=float)]
    squares = tg.sum(tg.square(tg.sub(a.unsqueeze(-2), b.unsqueeze(-3))), -1)
    zero = squares == 0  # where a square root has no gradient
    return tg.where(zero, 0.0, tg.sqrt(tg.where(zero, 1.0, squares)))
