"""Sums and maxima of bags of rows, on a GPU, in Triton: bags/reference.py.

A program has a bag and BLOCK columns, and goes over the bag's places in their order, AHEAD of which are loaded at once.

The gradient is the rows of dy by the bag of each place (take_rows), added by their index (take_rows_grad). There are no
atomics on floats, and nothing is asked of the host, so all of it can be captured.

Traffic: the rows are read once, the result is written once: that is the floor. Of the gradient, the rows of dy by their
places are written and read beside that. Bags of 16 rows of 64 floats are 4 KB each, so the latency of the loads takes
most of the time (reasoned).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import triton
import triton.language as tl

from tilegrad.kernels.bags.gpu_places import places_of
from tilegrad.kernels.bags.reference import check_bags, index_error, offsets_error
from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch import faults
from tilegrad.kernels.launch.triton_dtypes import no_float64
from tilegrad.kernels.launch.triton_faults import note
from tilegrad.kernels.launch.triton_kernel import kernel
from tilegrad.kernels.sizes import cdiv, next_power_of_2
from tilegrad.kernels.take_rows.gpu_triton import take_rows, take_rows_grad

COLUMNS = 512  # of a program
WARPS = 4
AHEAD = tl.constexpr(4)  # rows that are loaded at once


@triton.jit
def _bag(offsets_ptr, fault_ptr, b, n, given):
    """(the first place of bag b, the one behind its last); an offset that is out of order is noted as a fault."""
    at = b + tl.arange(0, 1)
    start = tl.load(offsets_ptr + at).to(tl.int64)
    stop = tl.load(offsets_ptr + at + 1, mask=at + 1 < given, other=n).to(tl.int64)
    begins = (start >= 0) & (start <= n)
    ends = (stop >= start) & (stop <= n)
    note(fault_ptr, at, start, begins == 0)
    note(fault_ptr, at + 1, stop, begins & (ends == 0))
    start = tl.where(begins & ends, start, 0)
    stop = tl.where(begins & ends, stop, 0)
    return tl.sum(start), tl.sum(stop)


@triton.jit
def _row(index_ptr, fault_ptr, place, stop, rows, padding):
    """(the row at these places, whether it counts); one that the table has not is noted as a fault."""
    there = place < stop
    row = tl.load(index_ptr + place, mask=there, other=0).to(tl.int64)
    inside = (row >= 0) & (row < rows)
    note(fault_ptr, place, row, there & (inside == 0))
    return row, there & inside & (row != padding)


@kernel
def _sum_kernel(
    x_ptr, index_ptr, offsets_ptr, y_ptr, index_fault_ptr, offsets_fault_ptr,
    n, given, rows, width, padding, blocks, MEAN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """x: (rows, width). index: (n,). offsets: (given,). y: (bags, width). faults: slots.

    Program b * blocks + k has the k-th of the blocks of columns of bag b.
    """
    program = tl.program_id(0)
    b = (program // blocks).to(tl.int64)
    column = (program % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    within = column < width
    start, stop = _bag(offsets_ptr, offsets_fault_ptr, b, n, given)
    total = tl.zeros([BLOCK], tl.float32)
    count = tl.zeros([1], tl.float32)
    while start < stop:
        for k in tl.static_range(AHEAD):
            row, counts = _row(index_ptr, index_fault_ptr, start + k + tl.arange(0, 1), stop, rows, padding)
            total += tl.load(x_ptr + row * width + column, mask=within & counts, other=0.0).to(tl.float32)
            count += counts.to(tl.float32)
        start += AHEAD
    if MEAN:
        total = tl.div_rn(total, tl.broadcast_to(tl.maximum(count, 1.0), [BLOCK]))
    tl.store(y_ptr + b * width + column, total.to(y_ptr.dtype.element_ty), mask=within)


@kernel
def _max_kernel(
    x_ptr, index_ptr, offsets_ptr, y_ptr, best_ptr, index_fault_ptr, offsets_fault_ptr,
    n, given, rows, width, padding, blocks, BLOCK: tl.constexpr,
):  # fmt: skip
    """As _sum_kernel. best: (bags, width) int64, rows."""
    program = tl.program_id(0)
    b = (program // blocks).to(tl.int64)
    column = (program % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    within = column < width
    start, stop = _bag(offsets_ptr, offsets_fault_ptr, b, n, given)
    value = tl.zeros([BLOCK], tl.float32)
    best = tl.full([BLOCK], -1, tl.int64)
    while start < stop:
        for k in tl.static_range(AHEAD):
            row, counts = _row(index_ptr, index_fault_ptr, start + k + tl.arange(0, 1), stop, rows, padding)
            new = tl.load(x_ptr + row * width + column, mask=within & counts, other=0.0).to(tl.float32)
            is_better = counts & ((best < 0) | (new > value) | ((new != new) & (value == value)))
            value = tl.where(is_better, new, value)
            best = tl.where(is_better, row, best)
        start += AHEAD
    tl.store(y_ptr + b * width + column, value.to(y_ptr.dtype.element_ty), mask=within)
    tl.store(best_ptr + b * width + column, best, mask=within)


def sum_bags(x: Any, index: Any, offsets: Any, bags: int, padding: int | None = None, mean: bool = False) -> Any:
    """bags.reference.sum_bags; what is wrong with index and offsets is raised by the next synchronisation."""
    no_float64("sum_bags", check_bags("sum_bags", x, index, offsets, bags, None, padding))
    y = gpu.xp().empty((bags, *x.shape[1:]), x.dtype)
    _of_table(_sum_kernel, "sum_bags", x, index, offsets, (y,), padding, MEAN=bool(mean))
    return y


def max_bags(x: Any, index: Any, offsets: Any, bags: int, padding: int | None = None) -> tuple[Any, Any]:
    """bags.reference.max_bags; what is wrong with index and offsets is raised by the next synchronisation."""
    no_float64("max_bags", check_bags("max_bags", x, index, offsets, bags, None, padding))
    y, best = (gpu.xp().empty((bags, *x.shape[1:]), dtype) for dtype in (x.dtype, np.int64))
    _of_table(_max_kernel, "max_bags", x, index, offsets, (y, best), padding)
    return y, best


def sum_bags_grad(dy: Any, index: Any, offsets: Any, rows: int, padding: int | None = None) -> Any:
    """bags.reference.sum_bags_grad; an index out of range is raised by the next synchronisation."""
    op = "sum_bags_grad"
    no_float64(op, check_bags(op, dy, index, offsets, None, rows, padding))
    return take_rows_grad(take_rows(*places_of(dy, index, offsets)), index, rows, padding, wrap=False)


def _of_table(
    kernel: Any, op: str, x: Any, index: Any, offsets: Any, results: tuple[Any, ...], padding: Any, **options: Any
) -> None:
    x, index, offsets = (gpu.xp().ascontiguousarray(a) for a in (x, index, offsets))
    bags, width = len(results[0]), math.prod(x.shape[1:])
    if not bags * width:
        return
    block = min(COLUMNS, next_power_of_2(width))
    blocks = cdiv(width, block)
    slots = faults.watch(index_error, op, len(x)), faults.watch(offsets_error, op, index.size)
    numbers = index.size, offsets.size, len(x), width, -1 if padding is None else int(padding), blocks
    options |= {"BLOCK": block, "num_warps": WARPS}
    kernel((bags * blocks,), x, index, offsets, *results, *slots, *numbers, **options)
