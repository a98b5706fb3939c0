"""Memory for large results, reused after the arrays in it are gone.

A fresh array of a few megabytes costs more than many kernels: the system maps its pages one fault at a time, and takes
them back when the array is freed (measured: a CNN step in plain NumPy ran 1.6 times faster on pages that were kept). So
results of the CPU kernels above a threshold come from here: a block of memory is lent as an array, and comes back when
the array and every view of it are gone. An array that is still alive never sees its memory reused.
"""

from __future__ import annotations

import ctypes
import math
import threading
import weakref
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from tilegrad.kernels.sizes import cdiv
from tilegrad.kernels.system import forks
from tilegrad.kernels.system.modes import Block

SMALLEST = 1 << 16  # bytes; for less, NumPy's allocator keeps its pages by itself
KEPT = 1 << 28  # bytes of idle blocks at most
LINE = 64  # bytes of a cache line: arrays begin at one, so that a vector load never touches two


class _Block(NamedTuple):
    memory: np.ndarray
    size: int  # bytes that can be lent
    address: int  # of the first of them


class Pool:
    """Idle blocks, by their size.

    kept  the most bytes that are kept idle; blocks that come back beyond that go to the system

    Lent arrays hold a weak reference to their pool: a freed pool frees its idle blocks, and a block that is lent is
    then freed with its array.
    """

    _lock: threading.RLock

    def __init__(self, kept: float = KEPT) -> None:
        self._kept = kept
        self.reference = weakref.ref(self)
        self._blocks: dict[int, list[_Block]] = {}
        forks.give_lock(self)  # reentrant: garbage collection may give a block back meanwhile
        self.idle_bytes = 0
        self.nbytes = 0  # of all blocks that were ever made

    def take(self, size: int) -> _Block:
        """A block of at least `size` bytes, rounded up to an eighth of its power of two so that sizes recur.

        Where none of that size is idle, the smallest one that is larger serves, up to twice as large.
        """
        unit = 1 << max(12, size.bit_length() - 4)
        rounded = cdiv(size, unit) * unit
        with self._lock:
            blocks = self._blocks.get(rounded)
            if not blocks:
                larger = [n for n, idle in self._blocks.items() if idle and rounded < n <= 2 * rounded]
                blocks = self._blocks[min(larger)] if larger else None
            if blocks:  # no calls from here on, between which Ctrl-C could leave this half done
                block = blocks[-1]
                del blocks[-1]
                self.idle_bytes -= block.size
                return block
            self.nbytes += rounded
        memory = np.empty(rounded + LINE, np.uint8)
        return _Block(memory, rounded, cdiv(memory.ctypes.data, LINE) * LINE)

    def give_back(self, block: _Block) -> None:
        with self._lock:
            if self.idle_bytes + block.size <= self._kept:
                blocks = self._blocks.setdefault(block.size, [])
                blocks += (block,)
                self.idle_bytes += block.size

    def free(self) -> None:
        with self._lock:
            self._blocks.clear()
            self.idle_bytes = 0


_common = Pool()


class _Local(threading.local):
    pool = _common


_local = _Local()


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array with memory as it is found, like numpy.empty."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    if size < SMALLEST:
        return np.empty(shape, dtype)
    pool = _local.pool
    block = pool.take(size)
    lease = _lease_of(block.size).from_address(block.address)
    lease.block, lease.pool = block, pool.reference
    return np.ndarray(shape, dtype, lease)


@cache
def _lease_of(size: int) -> Any:
    """The class of owners of lent blocks of that size: NumPy keeps one alive as long as any view of its array.

    A ctypes object, because lending through one takes 5 microseconds, and through __array_interface__ 10. Each size has
    a class of its own; there are few sizes.
    """
    return type("_Lease", (ctypes.c_char * size,), {"__slots__": ("block", "pool"), "__del__": _give_back})


def _give_back(lease: Any) -> None:
    pool = lease.pool()
    if pool is not None:
        pool.give_back(lease.block)


def taken_from(pool: Pool) -> Block:
    """Within the block this thread's arrays come from that pool; they go back to it whenever they are freed."""
    return Block(taking_from(pool))


def taking_from(pool: Pool) -> tuple[Any, str, Any]:
    """The setting of a block as `taken_from` gives it."""
    return _local, "pool", pool


def pool_of(array: np.ndarray) -> Pool | None:
    """The pool that the array's memory goes back to, if it was lent."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    reference = getattr(array.base, "pool", None)
    return None if reference is None else reference()


def idle_bytes() -> int:
    """Bytes held in blocks that nobody uses."""
    return _common.idle_bytes


def free() -> None:
    """Give all idle blocks back to the system."""
    _common.free()
    trim()


def trim() -> None:
    """Give what was freed to the system, which glibc does not do with memory between other blocks (malloc_trim(3))."""
    of_glibc = _of_glibc()
    if of_glibc is not None:
        of_glibc(0)


@cache
def _of_glibc() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another library of C
        return None
