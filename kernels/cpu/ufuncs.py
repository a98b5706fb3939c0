"""Sums of large arrays on the CPU, compiled: what NumPy computes, with the same bits.

NumPy takes fresh memory from the system for each large result, and one thread. Here results take memory from the pool,
and threads share the work. Two channels-last images of 803 thousand numbers, one thread: 0.15 ms, NumPy's 0.22.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tilegrad.kernels.cpu import buffers, threads
from tilegrad.kernels.cpu import cpu_loops as loops

_float32 = np.dtype(np.float32)


def add(a: Any, b: Any) -> np.ndarray | None:
    """a + b, of float32 arrays that lie alike and without gaps; None where they do not, or are small.

    Traffic: reads 8, writes 4 bytes an element.
    """
    if type(a) is not np.ndarray or type(b) is not np.ndarray or a.nbytes <= threads.WORTH_SHARING:
        return None
    if a.dtype != _float32 or b.dtype != _float32 or a.shape != b.shape or a.strides != b.strides:
        return None
    order = sorted(range(a.ndim), key=lambda axis: -a.strides[axis])
    a, b = a.transpose(order), b.transpose(order)
    if not (a.flags.c_contiguous and a.flags.aligned and b.flags.aligned):
        return None
    y = buffers.empty(a.shape, _float32)
    threads.share(loops.add, y.size, y.size, a.reshape(-1), b.reshape(-1), y.reshape(-1))
    return y.transpose(np.argsort(order))


# By NumPy's function: what gives its result, or None.
COMPILED: dict[Any, Callable[[Any, Any], np.ndarray | None]] = {np.add: add}
