"""What compiled code needs of NumPy's structs, as its public C interface lays them out.

A ufunc (numpy/ufuncobject.h, PyUFuncObject) holds a loop for each of `ufunc.types`, the very function that NumPy runs
on this processor,

    loop(char **arguments, intp *size, intp *steps, void *data)

which needs no lock of Python's. So whoever calls it gets NumPy's bits, and nothing has to be compiled.

An array (numpy/ndarraytypes.h, PyArrayObject_fields) begins with the address of its first element. Reading that takes
0.1 microseconds, `array.ctypes.data` 0.75.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, NamedTuple

import numpy as np

_FLOATS, _OTHERS = frozenset("efd"), frozenset("?bBhHiIlLqQ")
_NEVER_RAISE = frozenset(  # for integers and bools; others may divide by zero or take a negative power
    getattr(np, name)
    for name in """
    absolute add bitwise_and bitwise_or bitwise_xor equal greater greater_equal invert less less_equal logical_and
    logical_not logical_or logical_xor maximum minimum multiply negative not_equal positive subtract
    """.split()
)


_HEAD = object.__basicsize__
_word_at = ctypes.c_ssize_t.from_address


def address(array: np.ndarray) -> int:
    """Where the array's first element lies."""
    return _word_at(id(array) + _HEAD).value


class _UFunc(ctypes.Structure):
    _fields_ = [
        ("head", ctypes.c_char * _HEAD),
        ("nin", ctypes.c_int),
        ("nout", ctypes.c_int),
        ("nargs", ctypes.c_int),
        ("identity", ctypes.c_int),
        ("functions", ctypes.POINTER(ctypes.c_void_p)),
        ("data", ctypes.POINTER(ctypes.c_void_p)),
        ("ntypes", ctypes.c_int),
    ]


class Loop(NamedTuple):
    """A loop of NumPy's kind.

    address  of the function
    data     its last argument
    result   dtype of what it computes
    """

    address: int
    data: int
    result: np.dtype


@cache
def loop_of(ufunc: np.ufunc, dtypes: tuple[np.dtype, ...]) -> Loop | None:
    """The loop that NumPy has for operands of these very dtypes; None where there is none, or one that may raise."""
    if ufunc.signature is not None or ufunc.nout != 1 or ufunc.nin != len(dtypes):
        return None
    operands = "".join([dtype.char if dtype.isbuiltin != 2 and dtype.isnative else " " for dtype in dtypes])
    if not (_FLOATS.issuperset(operands) or ufunc in _NEVER_RAISE and _OTHERS.issuperset(operands)):
        return None
    for i, signature in enumerate(ufunc.types):
        taken, result = signature.split("->")
        if taken == operands:
            found = _UFunc.from_address(id(ufunc))
            assert (found.nin, found.nout, found.ntypes) == (ufunc.nin, ufunc.nout, ufunc.ntypes), "not NumPy's struct"
            address: Any = found.functions[i]
            return Loop(address, found.data[i] or 0, np.dtype(result)) if address else None
    return None
