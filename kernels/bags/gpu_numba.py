"""Sums and maxima of bags of rows, on a GPU, in Numba-CUDA: bags/reference.py.

    block 0: bag 0     block 1: bag 1     ...        its threads stride over the columns
    for each place of the bag, in their order: total += x[index[place], column]

The gradient is the rows of dy by the bag of each place (take_rows), added by their index (take_rows_grad). Nothing
waits for index and offsets: what is wrong with them is noted (kernels/launch/faults.py).

Traffic: the rows are read once, the result is written once: that is the floor. Of the gradient, the rows of dy by their
places are written and read beside that.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy import float32, int64

from tilegrad.kernels.bags.gpu_places import places_of
from tilegrad.kernels.bags.reference import check_bags, index_error, offsets_error
from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch import faults
from tilegrad.kernels.launch.numba_dtypes import only_served
from tilegrad.kernels.launch.numba_faults import note
from tilegrad.kernels.launch.numba_kernel import kernel
from tilegrad.kernels.launch.numba_target import SIMULATED, cuda, device
from tilegrad.kernels.take_rows.gpu_numba import take_rows, take_rows_grad

THREADS = 4 if SIMULATED else 128
MOST_BLOCKS = 64 if SIMULATED else 1 << 20

_ZERO = float32(0)


@device
def _bag(offsets, n, b, fault):
    """(the first place of bag b, the one behind its last); an offset that is out of order is noted as a fault."""
    start = int64(offsets[b])
    stop = int64(offsets[b + 1]) if b + 1 < offsets.size else int64(n)
    begins = 0 <= start <= n
    if begins and start <= stop <= n:
        return start, stop
    if cuda.threadIdx.x == 0:
        note(fault, b if begins == 0 else b + 1, stop if begins else start)
    return int64(0), int64(0)


@device
def _row(index, place, rows, padding, fault):
    """The row at this place; -1 where it does not count, which is noted as a fault for one that the table has not."""
    row = int64(index[place])
    if 0 <= row < rows:
        return row if row != padding else int64(-1)
    if cuda.threadIdx.x == 0:
        note(fault, place, row)
    return int64(-1)


@kernel
def _sum_kernel(x, index, offsets, y, index_fault, offsets_fault, padding, mean):
    """x: (rows, width). index: (n,). offsets: (bags,) or (bags + 1,). y: (bags, width). faults: slots."""
    for b in range(cuda.blockIdx.x, y.shape[0], cuda.gridDim.x):
        start, stop = _bag(offsets, index.size, b, offsets_fault)
        column = cuda.threadIdx.x
        while column < y.shape[1]:
            total, count = _ZERO, 0
            for place in range(start, stop):
                row = _row(index, place, x.shape[0], padding, index_fault)
                if row >= 0:
                    total += float32(x[row, column])
                    count += 1
            if mean and count > 0:
                total = total / float32(count)
            y[b, column] = total
            column += cuda.blockDim.x


@kernel
def _max_kernel(x, index, offsets, y, best, index_fault, offsets_fault, padding):
    """As _sum_kernel. best: (bags, width) int64, rows."""
    for b in range(cuda.blockIdx.x, y.shape[0], cuda.gridDim.x):
        start, stop = _bag(offsets, index.size, b, offsets_fault)
        column = cuda.threadIdx.x
        while column < y.shape[1]:
            most, of_most = _ZERO, int64(-1)
            for place in range(start, stop):
                row = _row(index, place, x.shape[0], padding, index_fault)
                if row >= 0:
                    value = float32(x[row, column])
                    if of_most < 0 or value > most or (value != value and most == most):
                        most, of_most = value, row
            y[b, column] = most
            best[b, column] = of_most
            column += cuda.blockDim.x


def sum_bags(x: Any, index: Any, offsets: Any, bags: int, padding: int | None = None, mean: bool = False) -> Any:
    """bags.reference.sum_bags; what is wrong with index and offsets is raised by the next synchronisation."""
    only_served("sum_bags", check_bags("sum_bags", x, index, offsets, bags, None, padding))
    y = gpu.xp().empty((bags, *x.shape[1:]), x.dtype)
    _of_table(_sum_kernel, "sum_bags", x, index, offsets, (y,), padding, int(bool(mean)))
    return y


def max_bags(x: Any, index: Any, offsets: Any, bags: int, padding: int | None = None) -> tuple[Any, Any]:
    """bags.reference.max_bags; what is wrong with index and offsets is raised by the next synchronisation."""
    only_served("max_bags", check_bags("max_bags", x, index, offsets, bags, None, padding))
    y, best = (gpu.xp().empty((bags, *x.shape[1:]), dtype) for dtype in (x.dtype, np.int64))
    _of_table(_max_kernel, "max_bags", x, index, offsets, (y, best), padding)
    return y, best


def sum_bags_grad(dy: Any, index: Any, offsets: Any, rows: int, padding: int | None = None) -> Any:
    """bags.reference.sum_bags_grad; an index out of range is raised by the next synchronisation."""
    op = "sum_bags_grad"
    only_served(op, check_bags(op, dy, index, offsets, None, rows, padding))
    return take_rows_grad(take_rows(*places_of(dy, index, offsets)), index, rows, padding, wrap=False)


def _of_table(
    kernel: Any, op: str, x: Any, index: Any, offsets: Any, results: tuple[Any, ...], padding: Any, *numbers: int
) -> None:
    bags, width = len(results[0]), math.prod(x.shape[1:])
    if not bags * width:
        return
    slots = faults.watch(index_error, op, len(x)), faults.watch(offsets_error, op, index.size)
    flat = [y.reshape(bags, width) for y in results]
    table, last = gpu.xp().ascontiguousarray(x).reshape(len(x), width), -1 if padding is None else int(padding)
    kernel((min(bags, MOST_BLOCKS),), (THREADS,), table, index, offsets, *flat, *slots, last, *numbers)
