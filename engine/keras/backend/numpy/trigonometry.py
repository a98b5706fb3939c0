"""Trigonometric and hyperbolic functions, elementwise, in floats."""

from __future__ import annotations

from typing import Any

import tilegrad as tg
from tilegrad.keras.backend.operands import floating
from tilegrad.tensor import Tensor


def sin(x: Any) -> Tensor:
    """Sine."""
    return tg.sin(floating(x))


def cos(x: Any) -> Tensor:
    """Cosine."""
    return tg.cos(floating(x))


def tan(x: Any) -> Tensor:
    """Tangent."""
    return tg.tan(floating(x))


def arcsin(x: Any) -> Tensor:
    """Inverse sine."""
    return tg.arcsin(floating(x))


def arccos(x: Any) -> Tensor:
    """Inverse cosine."""
    return tg.arccos(floating(x))


def arctan(x: Any) -> Tensor:
    """Inverse tangent."""
    return tg.arctan(floating(x))


def sinh(x: Any) -> Tensor:
    """Hyperbolic sine."""
    return tg.sinh(floating(x))


def cosh(x: Any) -> Tensor:
    """Hyperbolic cosine."""
    return tg.cosh(floating(x))


def tanh(x: Any) -> Tensor:
    """Hyperbolic tangent."""
    return tg.tanh(floating(x))
