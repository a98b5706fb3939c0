"""The contract's checks: every primitive calls these before any arithmetic.

ValueError for shapes, values and ranges, TypeError for dtypes and wrong kinds of argument. The text says the
op, what it got and what it expected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import ml_dtypes
import numpy as np

from tilegrad.kernels.contract import DTYPES

bfloat16 = np.dtype(ml_dtypes.bfloat16)
SERVED: dict[str, tuple[np.dtype, ...]] = {backend: tuple(map(np.dtype, names)) for backend, names in DTYPES.items()}
FLOAT_DTYPES = SERVED["reference"]
PRECISIONS = ("ieee", "tf32", "tf32x3")


def require(condition: bool, op: str, message: str) -> None:
    """Raise ValueError("op: message") unless the condition holds.

    The message is built even where the condition holds: keep it a short f-string.
    """
    if not condition:
        raise ValueError(f"{op}: {message}")


def float_dtype(op: str, **arrays: Any) -> np.dtype:
    """The one floating dtype of all these arrays; an argument that is None is left out.

    Raises TypeError if one is not an array, if it is not of one of FLOAT_DTYPES, or if two differ.
    """
    found = None
    for a in arrays.values():
        if a is None:
            continue
        dtype = getattr(a, "dtype", None)
        if dtype is found is not None:  # the very same one: nothing is left to ask
            continue
        if dtype is None or found is not None and dtype != found or dtype not in FLOAT_DTYPES:
            raise _not_one_float_dtype(op, arrays)
        found = dtype
    assert found is not None
    return found


def _not_one_float_dtype(op: str, arrays: dict[str, Any]) -> TypeError:
    given = {name: a for name, a in arrays.items() if a is not None}
    for name, a in given.items():
        if not hasattr(a, "dtype"):
            return TypeError(f"{op}: {name} is a {type(a).__name__}; expected an array")
    found = ", ".join(f"{name} is {a.dtype}" for name, a in given.items())
    if any(a.dtype not in FLOAT_DTYPES for a in given.values()):
        return TypeError(f"{op}: {found}; expected {A_FLOAT}")
    return TypeError(f"{op}: {found}; expected one dtype for all")


def _either(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


A_FLOAT = _either(DTYPES["reference"])


def not_served(op: str, dtype: np.dtype, backend: str) -> TypeError:
    """What to raise for a dtype that the backend does not serve, and others do."""
    ours = DTYPES[backend]
    others = {name: [other for other in DTYPES if name in DTYPES[other]] for name in DTYPES["reference"]}
    elsewhere = "; ".join(f"{name}: {', '.join(who)}" for name, who in others.items() if name not in ours)
    found = f"the arrays are {dtype}, which the backend {backend!r} does not serve"
    return TypeError(f"{op}: {found}; expected {_either(ours)} ({elsewhere})")


def accumulator(dtype: np.dtype) -> np.dtype:
    """The dtype that sums are kept in: float32 for float16 and bfloat16, otherwise the dtype itself."""
    return np.dtype(np.float32) if dtype.itemsize == 2 else np.dtype(dtype)


def one_of(op: str, name: str, value: Any, allowed: Sequence[Any]) -> None:
    """Raise ValueError unless the value is one of those allowed."""
    if value not in allowed:
        raise ValueError(f"{op}: {name} is {value!r}; expected one of {', '.join(map(repr, allowed))}")


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


def remembered(check: Callable[..., Any]) -> Callable[..., Any]:
    """`check`, with its result kept for arguments that passed: training asks for the same few shapes at every step.

    For checks of shapes and numbers, whose result depends on nothing else. Arguments that are equal but of other
    types (True and 1.0 equal 1) are told apart; what cannot be a key is checked anew.
    """
    passed: dict[Any, Any] = {}

    @wraps(check)
    def wrapper(*arguments: Any) -> Any:
        try:
            kinds = [type(v) for a in arguments for v in (a if type(a) is tuple else (a,))]
            key = arguments, tuple(kinds)
            if key in passed:
                return passed[key]
        except TypeError:
            return check(*arguments)
        result = check(*arguments)
        if len(passed) >= 1024:
            passed.clear()
        passed[key] = result
        return result

    return wrapper
