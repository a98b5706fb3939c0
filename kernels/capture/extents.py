"""Where arrays lie in memory: their owner, the bytes that they span, and ranges of addresses."""

from __future__ import annotations

import bisect
import ctypes

import numpy as np

Range = tuple[int, int]  # of addresses: the first, and the first that is beyond


def owner(array: np.ndarray) -> np.ndarray:
    """The array whose memory this one is, in the end, a view of."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def address(array: np.ndarray) -> int:
    """Of the first element."""
    return _word_at(id(array) + _HEADER).value


# Every array of NumPy's begins with the header of any object of Python's, and then has this address (NumPy, "C API:
# PyArrayObject"). To read it there takes a tenth of a microsecond; from __array_interface__, a dict, eight tenths.
_HEADER = object.__basicsize__
_word_at = ctypes.c_size_t.from_address


def extent(array: np.ndarray) -> tuple[int, int]:
    """(where the first byte lies, counted from the first element; bytes from the first to the last)."""
    if not array.size:
        return 0, 0
    ends = [step * (n - 1) for step, n in zip(array.strides, array.shape)]
    low = sum([end for end in ends if end < 0])
    return low, sum([end for end in ends if end > 0]) - low + array.itemsize


def span(array: np.ndarray) -> Range:
    """The addresses of the array's bytes, from the first to the last."""
    low, size = extent(array)
    first = address(array) + low
    return first, first + size


def merged(ranges: list[Range]) -> list[Range]:
    """In order, and without overlaps."""
    found: list[Range] = []
    for first, stop in sorted(ranges):
        if found and first <= found[-1][1]:
            found[-1] = found[-1][0], max(stop, found[-1][1])
        elif first < stop:
            found.append((first, stop))
    return found


def overlap(ranges: list[Range], first: int, stop: int) -> bool:
    """Whether one of the ranges, which `merged` gave, has an address from first to stop."""
    i = bisect.bisect_left(ranges, (stop,)) - 1
    return i >= 0 and ranges[i][1] > first
