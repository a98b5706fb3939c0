"""Integers bit by bit."""

from __future__ import annotations

from typing import Any

import tilegrad as tg
from tilegrad.keras.backend.core.convert import convert_to_tensor
from tilegrad.keras.backend.operands import promoted
from tilegrad.tensor import Tensor


def bitwise_and(x: Any, y: Any) -> Tensor:
    """Bits that both have."""
    return tg.bitwise_and(*promoted(x, y))


def bitwise_or(x: Any, y: Any) -> Tensor:
    """Bits that one has."""
    return tg.bitwise_or(*promoted(x, y))


def bitwise_xor(x: Any, y: Any) -> Tensor:
    """Bits that exactly one has."""
    return tg.bitwise_xor(*promoted(x, y))


def bitwise_not(x: Any) -> Tensor:
    """Bits that it does not have."""
    return tg.bitwise_not(convert_to_tensor(x))


bitwise_invert = bitwise_not


def bitwise_left_shift(x: Any, y: Any) -> Tensor:
    """x 2^y."""
    a, b = _numbers(x, y)
    return tg.mul(a, tg.pow(2, b))


left_shift = bitwise_left_shift


def bitwise_right_shift(x: Any, y: Any) -> Tensor:
    """x / 2^y, rounded down."""
    a, b = _numbers(x, y)
    return tg.floor_divide(a.long(), tg.pow(2, b.long())).to(a.dtype)  # 2^7 is no int8


right_shift = bitwise_right_shift


def _numbers(x: Any, y: Any) -> list[Tensor]:
    return [convert_to_tensor(each) for each in promoted(convert_to_tensor(x), convert_to_tensor(y))]
