"""Powers, exponentials and logarithms, elementwise, in floats."""

from __future__ import annotations

import math
from typing import Any

import tilegrad as tg
from tilegrad.keras.backend.operands import floating, promoted
from tilegrad.tensor import Tensor


def exp(x: Any) -> Tensor:
    """e^x."""
    return tg.exp(floating(x))


def exp2(x: Any) -> Tensor:
    """2^x."""
    return tg.pow(2.0, floating(x))


def expm1(x: Any) -> Tensor:
    """e^x - 1."""
    return tg.expm1(floating(x))


def log(x: Any) -> Tensor:
    """The natural logarithm."""
    return tg.log(floating(x))


def log2(x: Any) -> Tensor:
    """The logarithm to base 2."""
    return tg.log2(floating(x))


def log10(x: Any) -> Tensor:
    """The logarithm to base 10."""
    return tg.log10(floating(x))


def log1p(x: Any) -> Tensor:
    """log(1 + x)."""
    return tg.log1p(floating(x))


def sqrt(x: Any) -> Tensor:
    """The square root."""
    return tg.sqrt(floating(x))


def cbrt(x: Any) -> Tensor:
    """The cube root."""
    x = floating(x)
    return tg.mul(tg.sign(x), tg.pow(tg.abs(x), 1 / 3))


def logaddexp(x1: Any, x2: Any) -> Tensor:
    """log(e^x1 + e^x2), without overflow."""
    a, b = promoted(x1, x2, least=float)
    return tg.add(tg.maximum(a, b), tg.log1p(tg.exp(tg.neg(tg.abs(tg.sub(a, b))))))


def logaddexp2(x1: Any, x2: Any) -> Tensor:
    """log2(2^x1 + 2^x2), without overflow."""
    a, b = promoted(x1, x2, least=float)
    rest = tg.log1p(tg.pow(2.0, tg.neg(tg.abs(tg.sub(a, b)))))
    return tg.add(tg.maximum(a, b), tg.mul(rest, 1 / math.log(2)))


def hypot(x1: Any, x2: Any) -> Tensor:
    """sqrt(x1^2 + x2^2), without overflow."""
    a, b = promoted(x1, x2, least=float)
    a, b = tg.abs(a), tg.abs(b)
    large, small = tg.maximum(a, b), tg.minimum(a, b)
    ratio = tg.div(small, tg.where(large == 0, 1.0, large))
    return tg.mul(large, tg.sqrt(tg.add(1.0, tg.square(ratio))))
