"""How near one image is to another."""

from __future__ import annotations

from typing import Any

import tilegrad as tg
from tilegrad.keras.backend.core.convert import convert_to_tensor
from tilegrad.keras.backend.operands import promoted
from tilegrad.tensor import Tensor


def psnr(x1: Any, x2: Any, max_val: Any) -> Tensor:
    """The peak signal-to-noise ratio in decibels: 20 log10(max_val) - 10 log10(mean (x1 - x2)^2)."""
    a, b = [convert_to_tensor(x) for x in promoted(x1, x2, least=float)]
    if a.shape != b.shape:
        raise ValueError(f"Input shapes {a.shape} and {b.shape} must match for PSNR calculation. ")
    peak = convert_to_tensor(max_val, dtype=b.dtype)
    return tg.sub(tg.mul(tg.log10(peak), 20.0), tg.mul(tg.log10(tg.mean(tg.square(tg.sub(a, b)))), 10.0))
