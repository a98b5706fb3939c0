"""Large results in memory that was used before.

A fresh array of a few megabytes costs more than many kernels: the system maps its pages one fault at a time and takes
them back when it dies (measured: a CNN step in plain NumPy ran 1.6 times faster on pages that were kept). So results
of the CPU kernels above a threshold come from here: a block of memory is lent as an array, and comes back when the
array and every view of it are gone. It can therefore never be seen through an array that is still alive.
"""

from __future__ import annotations

import ctypes
import math
import threading
from functools import cache
from typing import Any, NamedTuple

import numpy as np

SMALLEST = 1 << 16  # bytes; below, the allocator of NumPy keeps its pages by itself
KEPT = 1 << 28  # bytes of idle blocks at most
LINE = 64  # bytes of a cache line, where arrays begin: a vector load then never touches two


class _Block(NamedTuple):
    memory: np.ndarray
    size: int  # bytes that can be lent
    address: int  # of the first of them


_idle: dict[int, list[_Block]] = {}
_idle_bytes = 0
_lock = threading.RLock()  # a block may come back, by garbage collection, while its thread holds the lock


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array with memory as it is found, like numpy.empty."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size < SMALLEST:
        return np.empty(shape, dtype)
    block = _take(size)
    lease = _lease_of(block.size).from_address(block.address)
    lease.block = block
    return np.ndarray(shape, dtype, lease)


@cache
def _lease_of(size: int) -> Any:
    """The class of owners of lent blocks of that size: NumPy keeps one alive as long as any view of its array.

    Of ctypes, because lending through one of its objects costs half of what it does through __array_interface__, 5
    microseconds for 10; a class for each size, of which there are few.
    """
    return type("_Lease", (ctypes.c_char * size,), {"__del__": lambda lease: _give_back(lease.block)})


def _take(size: int) -> _Block:
    """A block of at least `size` bytes, rounded up to an eighth of its power of two so that sizes recur."""
    global _idle_bytes
    unit = 1 << max(12, size.bit_length() - 4)
    rounded = -(-size // unit) * unit
    with _lock:
        blocks = _idle.get(rounded)
        if blocks:
            _idle_bytes -= rounded
            return blocks.pop()
    memory = np.empty(rounded + LINE, np.uint8)
    return _Block(memory, rounded, -(-memory.ctypes.data // LINE) * LINE)


def _give_back(block: _Block) -> None:
    global _idle_bytes
    with _lock:
        if _idle_bytes + block.size <= KEPT:
            _idle.setdefault(block.size, []).append(block)
            _idle_bytes += block.size


def idle_bytes() -> int:
    """Bytes held in blocks that nobody uses."""
    return _idle_bytes


def free() -> None:
    """Give all idle blocks back to the system."""
    global _idle_bytes
    with _lock:
        _idle.clear()
        _idle_bytes = 0
