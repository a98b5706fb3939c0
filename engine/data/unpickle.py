"""A pickle of NumPy arrays, read without trusting it.

A pickle is a program that may call any importable function. The only cure is to hand it nothing worth
calling. Even NumPy's own classes are too much: `numpy.dtype` takes its flags from the pickle, and a forged
one makes NumPy take raw bytes for Python objects. So the three names in a pickled array stand for inert records
here, and the arrays are made from the records afterwards.
"""

import pickle
import re
from io import BufferedIOBase
from typing import IO, Any

import numpy as np


def load_arrays(stream: IO[bytes] | BufferedIOBase) -> np.ndarray | tuple:
    """Load a pickle that holds one NumPy array, or tuples and lists of them, however nested.

    ->  a read-only array, or (nested) tuples of them. Elements are bool, int, uint or float.

    Reads pickles of Python 2 and of protocols 3 and 4, by NumPy before and after 2.0.

    Raises ValueError for a damaged pickle and for one that holds or names anything else; nothing that it
    names is imported or called.
    """
    try:
        # encoding: Python 2 wrote the elements as str, which must stay bytes
        return _to_arrays(_ArrayUnpickler(stream, encoding="bytes").load())
    except Exception as error:  # a forged pickle can make the machine inside pickle fail with any of them
        raise ValueError(f"load_arrays: expected a pickle of NumPy arrays and nothing else: {error}") from error


class _Dtype:
    """What a pickle says of a dtype: numpy.dtype("f4", False, True), then a state with the byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: bytes | str, align: object = False, copy: object = True) -> None:
        self.code, self.order = _text(code), "|"

    def __setstate__(self, state: tuple) -> None:
        self.order = _text(state[1])

    def to_numpy(self) -> np.dtype:
        if not re.fullmatch("b1|[iu][1248]|f[248]", self.code) or self.order not in "<>|=":
            raise ValueError(f"found elements of dtype {self.order}{self.code}")
        return np.dtype(self.order + self.code)


class _Array:
    """What a pickle says of an array: _reconstruct(ndarray, (0,), b"b"), then a state with the rest."""

    __slots__ = ("state",)

    def __init__(self, subtype: object, shape: object, code: object) -> None:
        if subtype is not _NDARRAY:
            raise ValueError(f"found an array of type {subtype!r}")

    def __setstate__(self, state: tuple) -> None:
        self.state = state

    def to_numpy(self) -> np.ndarray:
        _, shape, dtype, fortran, raw = self.state
        if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes):
            raise ValueError("found an array without a dtype or without bytes")
        array = np.frombuffer(raw, dtype.to_numpy()) if raw else np.empty(0, dtype.to_numpy())
        if min(shape, default=0) < 0:  # reshape would take -1 for "as many as there are"
            raise ValueError(f"found an array of shape {shape}")
        array = array.reshape(shape, order="F" if fortran else "C")
        array.flags.writeable = False
        return array


_NDARRAY = "numpy.ndarray"  # named by pickles, never called: a plain string cannot even be changed by one

_ADMITTED = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
}


# In Python, not in C: that one allocates and fills a table as long as any memo index that the pickle claims.
class _ArrayUnpickler(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"found {module}.{name}") from None


def _to_arrays(thing: object) -> np.ndarray | tuple:
    if isinstance(thing, _Array):
        return thing.to_numpy()
    if isinstance(thing, tuple | list):
        return tuple(_to_arrays(part) for part in thing)
    raise ValueError(f"found {type(thing).__name__}")


def _text(value: bytes | str) -> str:
    return value.decode("ascii") if isinstance(value, bytes) else str(value)
