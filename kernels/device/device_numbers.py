"""Numbers that a launch may also take from device memory: each launch of a captured step reads what is there then.

Nothing here waits for the device: of an array only its shape and dtype are checked.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tilegrad.kernels.checks import require
from tilegrad.kernels.device import gpu

SCALARS = tuple(map(np.dtype, (np.float32, np.float64, np.int32, np.int64)))


def number_or_array(op: str, name: str, value: Any, stand_in: float) -> tuple[Any, Any]:
    """(value, None) for what is no device array, else (stand_in, value), the array being 0-d and of one of SCALARS."""
    if not gpu.is_array(value):
        return value, None
    if value.ndim != 0:
        raise TypeError(f"{op}: {name} is an array of shape {value.shape}; expected a number or a 0-d array")
    if value.dtype not in SCALARS:
        raise TypeError(f"{op}: {name} is {value.dtype}; expected one of {', '.join(map(str, SCALARS))}")
    return stand_in, value


def step_or_factors(op: str, step: Any) -> tuple[Any, Any]:
    """(step, None) for what is no device array, else (1, step), the array being what `adam_factors` gives."""
    if not gpu.is_array(step):
        return step, None
    if step.shape != (3,) or step.dtype != np.float32:
        found = f"step is an array of {step.dtype} {step.shape}"
        raise TypeError(f"{op}: {found}; expected a number, or what it gives (adam_factors) as float32 (3,)")
    return 1, step


def stream_offset(op: str, offset: Any) -> bool:
    """Whether the offset of a random stream is in device memory: a 0-d array of int64 or uint64."""
    if not gpu.is_array(offset):
        return False
    if offset.dtype not in (np.int64, np.uint64):
        raise TypeError(f"{op}: offset is an array of {offset.dtype}; expected an int, or int64 or uint64")
    require(offset.shape == (), op, f"offset has shape {offset.shape}; expected an int or a 0-d array")
    return True
