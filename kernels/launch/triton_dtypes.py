"""The contract's checks, with what the Triton kernels do not take."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilegrad.kernels import checks


def float_dtype(op: str, **arrays: Any) -> np.dtype:
    """The one floating dtype of all these arrays, as checks.float_dtype; TypeError for float64."""
    return no_float64(op, checks.float_dtype(op, **arrays))


def no_float64(op: str, dtype: np.dtype) -> np.dtype:
    """The dtype itself. Raises TypeError for float64, which is left to NumPy: a GPU's units for it are few or slow."""
    if dtype.itemsize == 8:
        served = "expected float16, bfloat16 or float32 (float64 is served on the CPU, by reference and cpu)"
        raise TypeError(f"{op}: the arrays are {dtype}, which the backend 'triton' does not serve; {served}")
    return dtype
