"""Bits of integers."""

from __future__ import annotations

from typing import Any

import tilegrad as tg
from tilegrad import dtypes
from tilegrad.keras.backend.core.convert import convert_to_tensor
from tilegrad.keras.backend.hosted import constant, library
from tilegrad.keras.backend.operands import promoted
from tilegrad.tensor import Tensor


def _pair(x: Any, y: Any) -> list[Tensor]:
    a, b = promoted(x, y)
    dtype = next(value.dtype for value in (a, b) if isinstance(value, Tensor))
    return [convert_to_tensor(value, dtype=dtype) for value in (a, b)]


def bitwise_and(x: Any, y: Any) -> Tensor:
    """Bits that both have."""
    return tg.bitwise_and(*_pair(x, y))


def bitwise_or(x: Any, y: Any) -> Tensor:
    """Bits that one has."""
    return tg.bitwise_or(*_pair(x, y))


def bitwise_xor(x: Any, y: Any) -> Tensor:
    """Bits that exactly one has."""
    return tg.bitwise_xor(*_pair(x, y))


def bitwise_not(x: Any) -> Tensor:
    """All bits turned."""
    return tg.bitwise_not(convert_to_tensor(x))


bitwise_invert = bitwise_not


def left_shift(x: Any, y: Any) -> Tensor:
    """x 2^y."""
    a, b = _integers(x, y)
    return constant(library(a).left_shift(a.data, b.data))


bitwise_left_shift = left_shift


def right_shift(x: Any, y: Any) -> Tensor:
    """floor(x / 2^y)."""
    a, b = _integers(x, y)
    return constant(library(a).right_shift(a.data, b.data))


bitwise_right_shift = right_shift


def gcd(x1: Any, x2: Any) -> Tensor:
    """The greatest common divisor."""
    a, b = _integers(x1, x2)
    return constant(library(a).gcd(a.data, b.data))


def lcm(x1: Any, x2: Any) -> Tensor:
    """The least common multiple."""
    a, b = _integers(x1, x2)
    return constant(library(a).lcm(a.data, b.data))


def _integers(x: Any, y: Any) -> list[Tensor]:
    """Bools count as int32."""
    return [a.int() if a.dtype == dtypes.bool_ else a for a in _pair(x, y)]
