"""Parts of complex numbers, of which there are only real ones here."""

from __future__ import annotations

import math
from typing import Any

import tilegrad as tg
from tilegrad.keras.backend.core.convert import convert_to_tensor
from tilegrad.keras.backend.operands import floating
from tilegrad.tensor import Tensor


def real(x: Any) -> Tensor:
    """x itself."""
    return convert_to_tensor(x)


def conjugate(x: Any) -> Tensor:
    """x itself."""
    return convert_to_tensor(x)


conj = conjugate


def imag(x: Any) -> Tensor:
    """Zeros."""
    return tg.zeros_like(convert_to_tensor(x))


def isreal(x: Any) -> Tensor:
    """True everywhere."""
    x = convert_to_tensor(x)
    return tg.ones(x.shape, dtype=tg.bool, device=x.device)


def angle(x: Any) -> Tensor:
    """pi where x is negative, else 0; nan of nan."""
    x = floating(x).detach()
    return tg.where(tg.isnan(x), x, tg.where(x < 0, math.pi, 0.0).to(x.dtype))
