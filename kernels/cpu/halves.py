"""The 16-bit types on the CPU, by way of float32: Numba knows neither of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tilegrad.kernels.checks import bfloat16

HALVES = np.dtype(np.float16), bfloat16


def in_float32(primitive: Callable[..., Any], rounded: int, *arguments: Any) -> Any:
    """primitive(*arguments) of 16-bit arrays: computed in float32, and so many of its results rounded once."""
    halves = [isinstance(a, np.ndarray) and a.dtype in HALVES for a in arguments]
    dtype = next(a.dtype for a, is_half in zip(arguments, halves) if is_half)
    with np.errstate(all="ignore"):
        found = primitive(*[a.astype(np.float32) if is_half else a for a, is_half in zip(arguments, halves)])
        if not isinstance(found, tuple):
            return found.astype(dtype)
        return *[each.astype(dtype) for each in found[:rounded]], *found[rounded:]
