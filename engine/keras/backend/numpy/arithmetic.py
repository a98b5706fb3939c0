"""Arithmetic and rounding, elementwise."""

from __future__ import annotations

import builtins
from typing import Any

import tilegrad as tg
from tilegrad import dtypes
from tilegrad.keras.backend.core.convert import convert_to_tensor
from tilegrad.keras.backend.operands import floating, promoted
from tilegrad.tensor import Tensor


def add(x1: Any, x2: Any) -> Tensor:
    """x1 + x2; of bools, the or."""
    return tg.add(*promoted(x1, x2))


def subtract(x1: Any, x2: Any) -> Tensor:
    """x1 - x2."""
    return tg.sub(*promoted(x1, x2))


def multiply(x1: Any, x2: Any) -> Tensor:
    """x1 x2."""
    return tg.mul(*promoted(x1, x2))


def divide(x1: Any, x2: Any) -> Tensor:
    """x1 / x2, in floats."""
    return tg.div(*promoted(x1, x2, least=float))


true_divide = divide


def divide_no_nan(x1: Any, x2: Any) -> Tensor:
    """x1 / x2, and 0 where x2 is 0."""
    a, b = promoted(x1, x2, least=float)
    zero = tg.eq(b, 0) if isinstance(b, Tensor) else convert_to_tensor(b == 0)
    return tg.where(zero, 0.0, tg.div(a, tg.where(zero, 1.0, b)))


def floor_divide(x1: Any, x2: Any) -> Tensor:
    """floor(x1 / x2)."""
    return tg.floor_divide(*_numeric(x1, x2))


def mod(x1: Any, x2: Any) -> Tensor:
    """x1 - x2 floor(x1 / x2)."""
    return tg.remainder(*_numeric(x1, x2))


def _numeric(x1: Any, x2: Any) -> list[Any]:
    """Promoted; bools count as int32."""
    a, b = promoted(x1, x2)
    return [x.int() if isinstance(x, Tensor) and x.dtype == dtypes.bool_ else x for x in (a, b)]


def fmod(x1: Any, x2: Any) -> Tensor:
    """x1 - x2 trunc(x1 / x2)."""
    a, b = _numeric(x1, x2)
    return tg.sub(a, tg.mul(b, tg.div(a, b, rounding_mode="trunc")))


def negative(x: Any) -> Tensor:
    """-x."""
    return tg.neg(convert_to_tensor(x))


def abs(x: Any) -> Tensor:
    """|x|."""
    x = convert_to_tensor(x)
    return x if x.dtype == dtypes.bool_ else tg.abs(x)


absolute = abs


def fabs(x: Any) -> Tensor:
    """|x|, in floats."""
    return tg.abs(floating(x))


def sign(x: Any) -> Tensor:
    """-1, 0 or 1."""
    return tg.sign(convert_to_tensor(x))


def reciprocal(x: Any) -> Tensor:
    """1 / x."""
    return tg.reciprocal(floating(x))


def square(x: Any) -> Tensor:
    """x^2; of bools as int32."""
    x = convert_to_tensor(x)
    return tg.square(x.int() if x.dtype == dtypes.bool_ else x)


def power(x1: Any, x2: Any) -> Tensor:
    """x1^x2."""
    return tg.pow(*_numeric(x1, x2))


def maximum(x1: Any, x2: Any) -> Tensor:
    """The larger of two."""
    return tg.maximum(*promoted(x1, x2))


def minimum(x1: Any, x2: Any) -> Tensor:
    """The smaller of two."""
    return tg.minimum(*promoted(x1, x2))


def clip(x: Any, x_min: Any, x_max: Any) -> Tensor:
    """x cut to [x_min, x_max]; bools as int32."""
    x = convert_to_tensor(x)
    x = x.int() if x.dtype == dtypes.bool_ else x
    low, high = [b if isinstance(b, (int, float)) else convert_to_tensor(b, dtype=x.dtype) for b in (x_min, x_max)]
    return tg.clamp(x, low, high)


def ceil(x: Any) -> Tensor:
    """Rounded up, in floats."""
    return tg.ceil(floating(x))


def floor(x: Any) -> Tensor:
    """Rounded down, in floats."""
    return tg.floor(floating(x))


def trunc(x: Any) -> Tensor:
    """Rounded towards 0."""
    x = convert_to_tensor(x)
    return tg.trunc(x) if x.dtype in dtypes.FLOATS else x


def round(x: Any, decimals: int = 0) -> Tensor:
    """Rounded to that many decimals, halves to even."""
    x = convert_to_tensor(x)
    if x.dtype in dtypes.FLOATS:
        return tg.round(x, decimals=decimals)
    return tg.round(x.double(), decimals=decimals).to(x.dtype) if decimals < 0 else x


def deg2rad(x: Any) -> Tensor:
    """Degrees as radians."""
    return tg.mul(floating(x), 0.017453292519943295)


def rad2deg(x: Any) -> Tensor:
    """Radians as degrees."""
    return tg.mul(floating(x), 57.29577951308232)


def nan_to_num(x: Any, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None) -> Tensor:
    """x with numbers in place of nan and of infinities, those by default the largest and the least of the dtype."""
    import ml_dtypes

    x = convert_to_tensor(x)
    if x.dtype not in dtypes.FLOATS:
        return x
    most = builtins.float(ml_dtypes.finfo(x.dtype).max)
    x = tg.where(tg.isnan(x), nan, x)
    infinite = tg.isinf(x)
    x = tg.where(tg.logical_and(infinite, x > 0), most if posinf is None else posinf, x)
    return tg.where(tg.logical_and(infinite, x < 0), -most if neginf is None else neginf, x)
