"""The contract's checks, with what the Triton kernels do not take (contract.DTYPES)."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilegrad.kernels import checks

_SERVED = frozenset(checks.SERVED["triton"])


def float_dtype(op: str, **arrays: Any) -> np.dtype:
    """The one floating dtype of all these arrays, as checks.float_dtype; TypeError for one that is not served."""
    return no_float64(op, checks.float_dtype(op, **arrays))


def float_dtype_of(op: str, x: Any) -> np.dtype:
    """float_dtype(op, x=x): what every elementwise call on small arrays asks, so without another call."""
    dtype: Any = getattr(x, "dtype", None)
    return dtype if dtype in _SERVED else float_dtype(op, x=x)


def no_float64(op: str, dtype: np.dtype) -> np.dtype:
    """The dtype itself. Raises TypeError for float64, which is left to NumPy: a GPU's units for it are few or slow."""
    if dtype not in _SERVED:
        raise checks.not_served(op, dtype, "triton")
    return dtype
