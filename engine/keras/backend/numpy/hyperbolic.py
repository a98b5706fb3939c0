"""Inverse hyperbolic functions, the angle of a point, and other functions of one kind only, elementwise, in floats."""

from __future__ import annotations

import math
from typing import Any

import tilegrad as tg
from tilegrad import dtypes
from tilegrad.keras.backend.core.convert import convert_to_tensor
from tilegrad.keras.backend.hosted import constant, differentiable, library
from tilegrad.keras.backend.operands import floating, promoted
from tilegrad.tensor import Tensor


def arcsinh(x: Any) -> Tensor:
    """log(x + sqrt(x^2 + 1)), without cancellation."""
    x = floating(x)
    size = tg.abs(x)
    far = size > 1e9  # whose square may not be a number; there it is log(2 |x|)
    near = tg.where(far, 1.0, size)
    square = tg.square(near)
    small = tg.log1p(tg.add(near, tg.div(square, tg.add(1.0, tg.sqrt(tg.add(square, 1.0))))))
    large = tg.add(tg.log(tg.where(far, size, 1.0)), math.log(2))
    return tg.mul(tg.sign(x), tg.where(far, large, small))


def arccosh(x: Any) -> Tensor:
    """log(x + sqrt(x^2 - 1)); nan below 1."""
    x = floating(x)
    return tg.log(tg.add(x, tg.mul(tg.sqrt(tg.sub(x, 1.0)), tg.sqrt(tg.add(x, 1.0)))))


def arctanh(x: Any) -> Tensor:
    """(log(1 + x) - log(1 - x)) / 2."""
    x = floating(x)
    return tg.mul(tg.sub(tg.log1p(x), tg.log1p(tg.neg(x))), 0.5)


def arctan2(x1: Any, x2: Any) -> Tensor:
    """The angle of the point (x2, x1)."""
    y, x = tg.broadcast_tensors(*[convert_to_tensor(value) for value in promoted(x1, x2, least=float)])

    def rule(d: Tensor) -> tuple:
        scale = tg.div(d, tg.add(tg.square(x), tg.square(y)))
        return tg.mul(scale, x), tg.neg(tg.mul(scale, y))

    return differentiable("arctan2", library(y).arctan2(y.data, x.data), [y, x], rule)


def sinc(x: Any) -> Tensor:
    """sin(pi x) / (pi x), and 1 at 0."""
    x = tg.mul(floating(x), math.pi)
    zero = x == 0
    safe = tg.where(zero, 1.0, x)
    return tg.where(zero, 1.0, tg.div(tg.sin(safe), safe)).to(x.dtype)


def i0(x: Any) -> Tensor:
    """The modified Bessel function of the first kind and order 0, without a gradient."""
    x = floating(x).detach()
    return constant(library(x).i0(x.data).astype(x.dtype))


def heaviside(x1: Any, x2: Any) -> Tensor:
    """0 where x1 is negative, 1 where it is positive, x2 where it is 0."""
    a, b = [convert_to_tensor(value) for value in promoted(x1, x2, least=float)]
    step = tg.where(a > 0, 1.0, tg.where(a < 0, 0.0, b)).to(a.dtype)
    return tg.where(tg.isnan(a), a.detach(), step)


def signbit(x: Any) -> Tensor:
    """Whether the sign is set, also that of -0."""
    x = convert_to_tensor(x)
    if x.dtype in (dtypes.bool_, dtypes.uint8):
        return tg.zeros(x.shape, dtype=tg.bool, device=x.device)
    return constant(library(x).signbit(x.data)) if x.dtype in dtypes.FLOATS else x < 0


def nextafter(x1: Any, x2: Any) -> Tensor:
    """The number next to x1 on the way to x2, without a gradient."""
    a, b = [convert_to_tensor(value).detach() for value in promoted(x1, x2, least=float)]
    return constant(library(a).nextafter(a.data, b.data))


def ldexp(x1: Any, x2: Any) -> Tensor:
    """x1 2^x2, for integers x2."""
    power = convert_to_tensor(x2)
    if power.dtype in dtypes.FLOATS:
        raise TypeError(f"ldexp exponent must be an integer type. Received: x2 dtype={power.dtype}")
    x, power = promoted(x1, power, least=float)
    return tg.mul(x, tg.pow(2.0, power))


def fmax(x1: Any, x2: Any) -> Tensor:
    """The larger of two; where one is nan, the other."""
    return _other_than_nan(tg.maximum, x1, x2)


def fmin(x1: Any, x2: Any) -> Tensor:
    """The smaller of two; where one is nan, the other."""
    return _other_than_nan(tg.minimum, x1, x2)


def _other_than_nan(of_two: Any, x1: Any, x2: Any) -> Tensor:
    a, b = [convert_to_tensor(value) for value in promoted(x1, x2)]
    if a.dtype not in dtypes.FLOATS:
        return of_two(a, b)
    return of_two(tg.where(tg.isnan(a), b, a), tg.where(tg.isnan(b), a, b))
