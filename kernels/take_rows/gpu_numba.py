"""Rows of a table by their index, and the gradient to the table, on a GPU, in Numba-CUDA: take_rows/reference.py.

    block 0             block 1             block 2 ...        a block for each row of y
    y[0] = x[index[0]]  y[1] = x[index[1]]

    in a block: thread t copies words t, t + 128, t + 256, ...; neighbours in a warp read neighbours in memory

A row is copied in words of 8, 4 or 1 bytes, the widest that divide it, whatever its dtype. Pixels that become floats
are copied one by one.

Traffic: reads and writes the rows once: that is the floor. In words of 8 bytes a warp asks for 256 bytes at once, and
the ceiling is within reach; of single bytes it asks for 32, too few to cover the latency. Nothing waits for the index:
one that is out of range is noted (kernels/launch/faults.py).

The gradient adds the rows of dy that belong to one row of the table in the order of their places, as
take_rows/gpu_triton.py does: the places are sorted by keys of 64 bits, row << 32 | place, and a block adds up each row.

    sort    a thread for each key of a chunk, which lies in shared memory; it goes where as many keys are less
    merge   a thread for each key, which searches the run beside its own
    add     a block for each key. Where a row begins, its threads stride over the columns, four rows of dy at once

    sorted  3|0  3|4  3|7  5|1  8|2 ...        row|place
            block 0 adds dy[0], dy[4], dy[7]   block 1, 2: nothing   block 3 adds dy[1]

Traffic: dy and the index are read once. dx is filled with zeros, and the rows that the index names are written again.
The keys, 8 bytes a place, are written and read 1 + log2(M / THREADS) times.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numpy import float32, int64

from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch import faults
from tilegrad.kernels.launch.numba_dtypes import only_served
from tilegrad.kernels.launch.numba_faults import note
from tilegrad.kernels.launch.numba_kernel import Kernel, kernel
from tilegrad.kernels.launch.numba_target import SIMULATED, cuda, device
from tilegrad.kernels.sizes import cdiv
from tilegrad.kernels.take_rows.reference import check_take_rows, check_take_rows_grad, row_error

THREADS = 4 if SIMULATED else 128
MOST_BLOCKS = 64 if SIMULATED else 1 << 20
CHUNK = 4 if SIMULATED else 256  # keys that a block sorts, a thread each

_ZERO, _SHIFT, _PLACE, _LAST = float32(0), int64(32), int64((1 << 32) - 1), int64((1 << 63) - 1)


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


@functools.cache
def _sort_kernel(wrap: bool) -> Kernel:
    @kernel
    def _sort_kernel(index, keys, fault, rows, padding):
        """index: (n,). keys: (n,) int64, sorted in chunks. fault: a slot. padding: a row passed over, or -1."""
        shared = cuda.shared.array(CHUNK, int64)
        first = int64(cuda.blockIdx.x) * CHUNK
        i = first + cuda.threadIdx.x
        key = _LAST
        if i < index.size:
            found = int64(index[i])
            row = found + rows if wrap and found < 0 else found
            if not 0 <= row < rows:
                note(fault, i, found)
                row = int64(rows)
            if row == padding:
                row = int64(rows)
            key = (row << _SHIFT) | i
        shared[cuda.threadIdx.x] = key
        cuda.syncthreads()
        if i < index.size:
            less = 0
            for k in range(CHUNK):
                less += shared[k] < key
            keys[first + less] = key

    return _sort_kernel


@kernel
def _merge_kernel(source, target, run):
    """source, target: (n,) int64, in sorted runs of `run` and of 2 * run."""
    i = cuda.grid(1)
    if i >= source.size:
        return
    key, mine = source[i], i // run
    first = min((mine ^ 1) * run, source.size)  # of the other run; a last run without another one has none
    low, high = first, min(first + run, source.size)
    while low < high:
        middle = (low + high) // 2
        if source[middle] < key:
            low = middle + 1
        else:
            high = middle
    target[mine // 2 * 2 * run + (i - mine * run) + (low - first)] = key


@device
def _value(dy, key, row, i):
    """What the place of this key adds to the row, in column i."""
    return float32(dy[key & _PLACE, i]) if key >> _SHIFT == row else _ZERO


@device
def _key(keys, j):
    return keys[j] if j < keys.size else _LAST


@kernel
def _add_kernel(dy, keys, dx):
    """dy: (n, width). keys: (n,) int64, sorted. dx: (rows, width), zeros before."""
    for begin in range(cuda.blockIdx.x, keys.size, cuda.gridDim.x):
        row = keys[begin] >> _SHIFT
        if row < dx.shape[0] and (begin == 0 or keys[begin - 1] >> _SHIFT != row):
            i = cuda.threadIdx.x
            while i < dx.shape[1]:
                total, j = _ZERO, begin
                while _key(keys, j) >> _SHIFT == row:
                    a = _value(dy, keys[j], row, i)
                    b = _value(dy, _key(keys, j + 1), row, i)
                    c = _value(dy, _key(keys, j + 2), row, i)
                    d = _value(dy, _key(keys, j + 3), row, i)
                    total = (((total + a) + b) + c) + d  # in their order
                    j += 4
                dx[row, i] = total
                i += cuda.blockDim.x


def take_rows_grad(dy: Any, index: Any, rows: int, padding: int | None = None, wrap: bool = True) -> Any:
    """take_rows.reference.take_rows_grad; an index out of range is raised by the next synchronisation."""
    op = "take_rows_grad"
    only_served(op, check_take_rows_grad(dy, index, rows, padding))
    xp = gpu.xp()
    n, width = index.size, math.prod(dy.shape[1:])
    dx = xp.zeros((rows, width), dy.dtype)
    keys, other = (xp.empty(n, np.int64) for _ in range(2))
    fault = faults.watch(row_error, op, rows, bool(wrap))
    grid = (cdiv(n, CHUNK),)
    _sort_kernel(bool(wrap))(grid, (CHUNK,), index, keys, fault, rows, -1 if padding is None else int(padding))
    run = CHUNK
    while run < n:
        _merge_kernel(grid, (CHUNK,), keys, other, run)
        keys, other, run = other, keys, 2 * run
    if n and dx.size:
        _add_kernel((min(n, MOST_BLOCKS),), (THREADS,), dy.reshape(n, width), keys, dx)
    return dx.reshape(rows, *dy.shape[1:])
