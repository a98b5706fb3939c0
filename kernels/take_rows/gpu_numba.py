"""Rows of a table by their index on a GPU, in Numba-CUDA: take_rows/reference.py.

    block 0             block 1             block 2 ...        a block for each row of y
    y[0] = x[index[0]]  y[1] = x[index[1]]

    in a block: thread t copies words t, t + 128, t + 256, ...; neighbours in a warp read neighbours in memory

A row is copied in words of 8, 4 or 1 bytes, the widest that divide it, whatever its dtype. Pixels that become floats
are copied one by one.

Traffic: reads and writes the rows once: that is the floor. In words of 8 bytes a warp asks for 256 bytes at once, and
the ceiling is within reach; of single bytes it asks for 32, too few to cover the latency. Nothing waits for the index:
one that is out of range is noted (kernels/launch/faults.py).
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numpy import float32, int64

from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch import faults
from tilegrad.kernels.launch.numba_faults import note
from tilegrad.kernels.launch.numba_kernel import Kernel, kernel
from tilegrad.kernels.launch.numba_target import SIMULATED, cuda, device
from tilegrad.kernels.take_rows.reference import check_take_rows, row_error

THREADS = 4 if SIMULATED else 128
MOST_BLOCKS = 64 if SIMULATED else 1 << 20


@device
def _row_of(index, fault, rows, place, wrap):
    """The row that the index at this place means; -1 if x has no such row, which is noted as a fault."""
    found = int64(index[place])
    row = found + rows if wrap and found < 0 else found
    if 0 <= row < rows:
        return row
    if cuda.threadIdx.x == 0:
        note(fault, place, found)
    return int64(-1)


@functools.cache
def _rows_kernel(word: type, wrap: bool) -> Kernel:
    scaled = word is float32
    missing = float32(np.nan) if scaled else word(np.iinfo(word).max)  # the elements of a row that does not exist

    @kernel
    def _rows_kernel(x, index, y, fault, scale, shift):
        """x: (rows, size) words. index: (M,). y: (M, size) words, or floats of pixels. fault: a slot."""
        for place in range(cuda.blockIdx.x, index.size, cuda.gridDim.x):
            row = _row_of(index, fault, x.shape[0], place, wrap)
            for i in range(cuda.threadIdx.x, x.shape[1], cuda.blockDim.x):
                if row < 0:
                    y[place, i] = missing
                elif scaled:
                    y[place, i] = float32(x[row, i]) * scale + shift
                else:
                    y[place, i] = x[row, i]

    return _rows_kernel


def take_rows(x: Any, index: Any, scale: float | None = None, shift: float = 0.0, wrap: bool = True) -> Any:
    """take_rows.reference.take_rows; any dtype, and the host does not wait for the index."""
    check_take_rows(x, index, scale)
    xp = gpu.xp()
    x = xp.ascontiguousarray(x)
    y = xp.empty((index.size, *x.shape[1:]), x.dtype if scale is None else np.float32)
    if y.size == 0:
        return y
    size = math.prod(x.shape[1:]) * x.itemsize
    if scale is None:
        word = next(w for w in (np.uint64, np.uint32, np.uint8) if _divides(np.dtype(w).itemsize, size, x, y))
        source, target = (a.reshape(-1).view(word).reshape(len(a), size // np.dtype(word).itemsize) for a in (x, y))
    else:
        word, source, target = float32, x.reshape(len(x), size), y.reshape(index.size, size)
    fault = faults.watch(row_error, "take_rows", len(x), bool(wrap))
    numbers = float(1.0 if scale is None else scale), float(shift)
    _rows_kernel(word, bool(wrap))((min(index.size, MOST_BLOCKS),), (THREADS,), source, index, target, fault, *numbers)
    return y


def _divides(width: int, size: int, *arrays: Any) -> bool:
    return size % width == 0 and all(a.data.ptr % width == 0 for a in arrays)
