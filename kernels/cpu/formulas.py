"""Formulas of several of NumPy's functions that the CPU has one loop for: one pass over memory, the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np


def rsqrt(x: Any) -> Any:
    """1 / sqrt(x)."""
    return np.reciprocal(np.sqrt(x))


def cube(x: Any) -> Any:
    """x x x."""
    return np.multiply(np.square(x), x)
