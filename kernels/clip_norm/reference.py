"""Clipping a list of arrays by their joint norm, in place: the NumPy specification."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tilegrad.kernels.checks import A_FLOAT, FLOAT_DTYPES, accumulator, require

EPS = 1e-6  # added to the norm, as PyTorch does


def clip_norm_step(arrays: Sequence[np.ndarray], max_norm: float) -> np.ndarray:
    """Multiply every array by min(1, max_norm / (norm + 1e-6)); returns the norm before (0-d).

    The norm is that of all elements as one vector, sqrt(sum x^2), in float32 at least. An infinite or NaN norm is a
    result like any other.

    arrays    floating arrays with any strides, written in place
    max_norm  >= 0

    Traffic: reads all elements once, and once more, with a write, where they are clipped: 4 or 12 bytes a float32.
    Raises TypeError for dtypes, ValueError for max_norm. Source: Pascanu, Mikolov & Bengio 2013, algorithm 1.
    """
    check_clip_norm(np.ndarray, arrays, max_norm)
    with np.errstate(all="ignore"):
        norms = [np.linalg.norm(np.ravel(a.astype(accumulator(a.dtype), copy=False), order="K")) for a in arrays]
        total = np.linalg.norm(np.stack(norms)) if norms else np.float32(0)
        scale = np.minimum(max_norm / (total + EPS), 1.0)
        for a in arrays:
            a *= scale.astype(accumulator(a.dtype))
    return np.asarray(total)


def check_clip_norm(kind: type, arrays: Sequence[Any], max_norm: float) -> None:
    """Raise as clip_norm_step does; arrays must be of that type."""
    op = "clip_norm_step"
    for i, a in enumerate(arrays):
        if not isinstance(a, kind):
            raise TypeError(f"{op}: arrays[{i}] is a {type(a).__name__}; expected an array")
        if a.dtype not in FLOAT_DTYPES:
            raise TypeError(f"{op}: arrays[{i}] is {a.dtype}; expected {A_FLOAT}")
    require(max_norm >= 0 and not math.isnan(max_norm), op, f"max_norm is {max_norm}; expected >= 0")
