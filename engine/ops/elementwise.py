"""NumPy's elementwise functions as ops call them: by the backend's threads where arrays of the CPU are large.

NumPy and CuPy run the identical line for these, so they are no primitives. On the CPU the bits are NumPy's either way.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tilegrad import kernels
from tilegrad.device import array_module
from tilegrad.kernels.cpu.effects import capturing

# Bytes of the largest operand from which the backend is faster. Its call costs some 6 microseconds: as much as NumPy
# takes for so much of the cheap functions. NumPy's where has no vectors, and branches for every element.
_LARGE, _LARGE_IF_CHEAP, _LARGE_FOR_WHERE = 1 << 17, 1 << 20, 1 << 15
_CHEAP = frozenset(
    getattr(np, name)
    for name in """
    absolute add divide equal greater greater_equal less less_equal multiply negative not_equal reciprocal square
    subtract
    """.split()
)
_EXTREMA = {"max": np.maximum, "min": np.minimum}


def elementwise(function: Any, *arrays: Any) -> Any:
    """function(*arrays), a ufunc of NumPy's, numpy.where or numpy.clip; of a GPU's arrays its function of that name.

    Arrays are of one device. Those of the CPU may have one of kernels/cpu/formulas.py, too. Whoever calls sees to
    `quiet`.
    """
    for array in arrays:
        if type(array) is np.ndarray:
            if array.nbytes > _LARGE_FOR_WHERE and _is_large(function, array.nbytes, arrays) and not capturing():
                backend = getattr(kernels.of(*arrays), "UFUNCS", None)
                y = None if backend is None else backend.call(function, *arrays)
                return function(*arrays) if y is None else y
        elif not isinstance(array, (np.ndarray, np.generic)):
            return getattr(array_module(array), function.__name__)(*arrays)
    return function(*arrays)


def _is_large(function: Any, nbytes: int, arrays: Any) -> bool:
    if function in _CHEAP:
        is_broadcast = len(arrays) > 1 and arrays[0].shape != arrays[1].shape and arrays[0].ndim and arrays[1].ndim
        return nbytes > (_LARGE if is_broadcast else _LARGE_IF_CHEAP)
    return nbytes > _LARGE or function is np.where


def extreme(name: str, x: Any, axes: tuple[int, ...], keepdims: bool) -> Any:
    """x.max or x.min over the axes; NaN where there is one."""
    if type(x) is np.ndarray and x.nbytes > _LARGE and not capturing():
        backend = getattr(kernels.of(x), "UFUNCS", None)
        y = None if backend is None else backend.reduce(_EXTREMA[name], x, axes, keepdims)
        if y is not None:
            return y
    return getattr(x, name)(axis=axes, keepdims=keepdims)
