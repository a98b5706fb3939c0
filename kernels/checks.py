"""The contract's checks: every primitive calls these before any arithmetic.

ValueError for shapes, values and ranges, TypeError for dtypes and wrong kinds of argument. The text says the
op, what it got and what it expected.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

FLOAT_DTYPES = (np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64))
PRECISIONS = ("ieee", "tf32", "tf32x3")


def require(condition: bool, op: str, message: str) -> None:
    """Raise ValueError("op: message") unless the condition holds.

    The message is built even where the condition holds: keep it a short f-string.
    """
    if not condition:
        raise ValueError(f"{op}: {message}")


def float_dtype(op: str, **arrays: Any) -> np.dtype:
    """The one floating dtype of all these arrays; an argument that is None is left out.

    Raises TypeError if one is not an array, if it is not float16, float32 or float64, or if two differ.
    """
    given = {name: a for name, a in arrays.items() if a is not None}
    for name, a in given.items():
        if not hasattr(a, "dtype"):
            raise TypeError(f"{op}: {name} is a {type(a).__name__}; expected an array")
    dtypes = {name: a.dtype for name, a in given.items()}
    found = ", ".join(f"{name} is {dtype}" for name, dtype in dtypes.items())
    if any(dtype not in FLOAT_DTYPES for dtype in dtypes.values()):
        raise TypeError(f"{op}: {found}; expected float16, float32 or float64")
    if len(set(dtypes.values())) != 1:
        raise TypeError(f"{op}: {found}; expected one dtype for all")
    return next(iter(dtypes.values()))


def accumulator(dtype: np.dtype) -> np.dtype:
    """The dtype that sums are kept in: float32 for float16, otherwise the dtype itself."""
    return np.dtype(np.float32) if dtype == np.float16 else np.dtype(dtype)


def one_of(op: str, name: str, value: Any, allowed: Sequence[Any]) -> None:
    """Raise ValueError unless the value is one of those allowed."""
    require(value in allowed, op, f"{name} is {value!r}; expected one of {', '.join(map(repr, allowed))}")


def int_pair(op: str, name: str, value: Any, least: int) -> tuple[int, int]:
    """The value as a pair (height, width) of ints, each at least `least`.

    Raises TypeError if it is not a sequence of two ints, ValueError if one is too small.
    """
    kinds_hold = isinstance(value, (tuple, list)) and len(value) == 2 and all(map(is_int, value))
    if not kinds_hold:
        raise TypeError(f"{op}: {name} is {value!r}; expected a pair of ints (height, width)")
    require(min(value) >= least, op, f"{name} is {tuple(value)}; expected both >= {least}")
    return int(value[0]), int(value[1])


def is_int(value: Any) -> bool:
    """Whether the value is an integer and not a bool, which Python counts as one."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
