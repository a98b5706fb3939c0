"""The contract's checks, narrowed to the dtypes that the Numba kernels take."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilegrad.kernels import checks

_SERVED = (np.dtype(np.float16), np.dtype(np.float32))


def float_dtype(op: str, **arrays: Any) -> np.dtype:
    """The one floating dtype of all these arrays, as checks.float_dtype; TypeError unless float16 or float32."""
    return only_served(op, checks.float_dtype(op, **arrays))


def only_served(op: str, dtype: np.dtype) -> np.dtype:
    """The dtype itself. Raises TypeError for dtypes that only other backends serve."""
    if dtype not in _SERVED:
        served = "expected float16 or float32 (bfloat16: triton, reference, cpu; float64: reference, cpu)"
        raise TypeError(f"{op}: the arrays are {dtype}, which the backend 'numba' does not serve; {served}")
    return dtype
