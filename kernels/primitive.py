"""`@primitive`: a function of arrays of the user's own, as a step of a captured program."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from tilegrad.kernels.cpu import effects


def primitive(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which gives new arrays, computed from its arguments alone; also as a decorator.

        @kernels.primitive
        @numba.njit
        def scaled(x, factor): ...

    On the CPU a captured step calls it at each launch, with the arrays of that launch. What a function compiled by
    Numba, or any other that NumPy does not call, does with arrays is part of the step only so. It gives an array, or a
    tuple of arrays and None, whose shapes and dtypes depend on those of the arguments and not on values, and writes to
    no argument: otherwise the step cannot be captured. It is called once while the step is, for those shapes, with
    arrays of 0 (integers) and 0.5.

    On a GPU nothing is needed: what is launched through kernels/launch or CuPy is part of a captured step by itself.
    """

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        program = effects.capturing()
        return function(*args, **kwargs) if program is None else program.whole(function, args, kwargs)

    return call
