"""Comparisons and logic, elementwise."""

from __future__ import annotations

from typing import Any

import tilegrad as tg
from tilegrad import dtypes
from tilegrad.keras.backend.core.convert import convert_to_tensor
from tilegrad.keras.backend.operands import promoted
from tilegrad.tensor import Tensor


def equal(x1: Any, x2: Any) -> Tensor:
    """x1 == x2."""
    return tg.eq(*promoted(x1, x2))


def not_equal(x1: Any, x2: Any) -> Tensor:
    """x1 != x2."""
    return tg.ne(*promoted(x1, x2))


def less(x1: Any, x2: Any) -> Tensor:
    """x1 < x2."""
    return tg.lt(*promoted(x1, x2))


def less_equal(x1: Any, x2: Any) -> Tensor:
    """x1 <= x2."""
    return tg.le(*promoted(x1, x2))


def greater(x1: Any, x2: Any) -> Tensor:
    """x1 > x2."""
    return tg.gt(*promoted(x1, x2))


def greater_equal(x1: Any, x2: Any) -> Tensor:
    """x1 >= x2."""
    return tg.ge(*promoted(x1, x2))


def logical_and(x1: Any, x2: Any) -> Tensor:
    """Both are not 0."""
    return tg.logical_and(_truth(x1), _truth(x2))


def logical_or(x1: Any, x2: Any) -> Tensor:
    """One is not 0."""
    return tg.logical_or(_truth(x1), _truth(x2))


def logical_xor(x1: Any, x2: Any) -> Tensor:
    """Exactly one is not 0."""
    return tg.logical_xor(_truth(x1), _truth(x2))


def logical_not(x: Any) -> Tensor:
    """It is 0."""
    return tg.logical_not(_truth(x))


def _truth(x: Any) -> Tensor:
    return convert_to_tensor(x, dtype="bool")


def isnan(x: Any) -> Tensor:
    """Where x is nan."""
    return tg.isnan(convert_to_tensor(x))


def isinf(x: Any) -> Tensor:
    """Where x is infinite."""
    return tg.isinf(convert_to_tensor(x))


def isfinite(x: Any) -> Tensor:
    """Where x is neither infinite nor nan."""
    return tg.isfinite(convert_to_tensor(x))


def isposinf(x: Any) -> Tensor:
    """Where x is infinity."""
    x = convert_to_tensor(x)
    return tg.logical_and(tg.isinf(x), x > 0)


def isneginf(x: Any) -> Tensor:
    """Where x is minus infinity."""
    x = convert_to_tensor(x)
    return tg.logical_and(tg.isinf(x), x < 0)


def isclose(x1: Any, x2: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Tensor:
    """|x1 - x2| <= atol + rtol |x2|; equal infinities are close, and nan to nan if asked for."""
    a, b = [convert_to_tensor(x, dtype=None) for x in promoted(x1, x2, least=float)]
    near = tg.le(tg.abs(tg.sub(a, b)), tg.add(tg.mul(tg.abs(b), rtol), atol))
    near = tg.logical_or(tg.logical_and(near, tg.isfinite(b)), a == b)
    return tg.logical_or(near, tg.logical_and(tg.isnan(a), tg.isnan(b))) if equal_nan else near


def allclose(x1: Any, x2: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Tensor:
    """Whether all are close."""
    return tg.all(isclose(x1, x2, rtol, atol, equal_nan))


def where(condition: Any, x1: Any = None, x2: Any = None) -> Any:
    """x1 where the condition holds, else x2; without these, the indices where it holds, one tensor a dimension."""
    condition = convert_to_tensor(condition, dtype="bool")
    if x1 is None and x2 is None:
        return tuple([index.to(dtypes.int32) for index in tg.nonzero(condition, as_tuple=True)])
    return tg.where(condition, *promoted(x1, x2))
