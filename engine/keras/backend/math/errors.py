"""The error function and its relatives, elementwise, in floats (Abramowitz & Stegun, chapter 7)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import tilegrad as tg
from tilegrad import kernels
from tilegrad.keras.backend.hosted import differentiable, host, like
from tilegrad.keras.backend.operands import floating
from tilegrad.tensor import Tensor

_SLOPE = 2 / math.sqrt(math.pi)


def erf(x: Any) -> Tensor:
    """2 / sqrt(pi) times the integral of exp(-u^2) from 0 to x."""
    return tg.erf(floating(x))


def erfc(x: Any) -> Tensor:
    """1 - erf(x)."""
    return tg.sub(1.0, erf(x))


def erfinv(x: Any) -> Tensor:
    """The y with erf(y) = x; infinite at -1 and 1, nan beyond."""
    x = floating(x)

    def rule(dy: Tensor) -> tuple:
        return (tg.div(dy, _slope(y)),)

    y = differentiable("erfinv", like(_erfinv(host(x)), x), [x], rule)
    return y


def _slope(x: Tensor) -> Tensor:
    return tg.mul(tg.exp(tg.neg(tg.square(x))), _SLOPE)


def _erfinv(x: np.ndarray) -> np.ndarray:
    """Winitzki's approximation ("A handy approximation for the error function", 2008), then Newton's steps."""
    p = np.asarray(x, np.float64)
    with np.errstate(all="ignore"):
        log = np.log1p(-p * p)
        half = 2 / (math.pi * 0.147) + log / 2
        y = np.asarray(np.copysign(np.sqrt(np.sqrt(half * half - log / 0.147) - half), p))
        for _ in range(4):
            step = (kernels.of(y).erf(y) - p) / (_SLOPE * np.exp(-y * y))
            # Halley's: the second derivative is -2 y erf'
            y = np.asarray(y - np.where(np.isfinite(step), step / (1 + y * step), 0))
        y = np.where(np.abs(p) < 1, y, np.where(np.abs(p) == 1, np.copysign(np.inf, p), np.nan))
    return y.astype(x.dtype)
