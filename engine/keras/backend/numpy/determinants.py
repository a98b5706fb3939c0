"""The determinant's sign and size."""

from __future__ import annotations

from typing import Any

import tilegrad as tg
from tilegrad.keras.backend.hosted import constant, differentiable, library
from tilegrad.keras.backend.linalg.solving import inv, turned
from tilegrad.keras.backend.operands import floating
from tilegrad.tensor import Tensor


def slogdet(x: Any) -> tuple[Tensor, Tensor]:
    """The sign, and the logarithm of the size, of the determinant."""
    x = floating(x)
    xp = library(x)
    sign, size = xp.linalg.slogdet(x.data)

    def rule(dy: Tensor) -> tuple:
        return (tg.mul(dy.unsqueeze(-1).unsqueeze(-1), turned(inv(x))),)

    return constant(xp.asarray(sign, x.dtype)), differentiable("slogdet", xp.asarray(size, x.dtype), [x], rule)
