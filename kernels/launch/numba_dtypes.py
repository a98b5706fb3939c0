"""The contract's checks, narrowed to the dtypes that the Numba kernels take."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilegrad.kernels import checks

_SERVED = frozenset(checks.SERVED["numba"])


def float_dtype(op: str, **arrays: Any) -> np.dtype:
    """The one floating dtype of all these arrays, as checks.float_dtype; TypeError for one that is not served."""
    return only_served(op, checks.float_dtype(op, **arrays))


def only_served(op: str, dtype: np.dtype) -> np.dtype:
    """The dtype itself. Raises TypeError for dtypes that only other backends serve."""
    if dtype not in _SERVED:
        raise checks.not_served(op, dtype, "numba")
    return dtype
