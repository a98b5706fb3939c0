"""Rows of a table by their index, and the gradient to the table, on a GPU, in Triton: take_rows/reference.py.

A program copies up to BLOCK bytes of one row, whatever its dtype; with a scale, as many pixels of an image, which
become floats. Neighbours in a row are neighbours in a warp, 16 bytes a thread where 16 divides the rows.

Traffic: reads and writes the rows once: that is the floor. A batch of 64 MNIST images is 50 KB read, 200 KB written,
so the launch takes most of the time. Nothing waits for the index: one that is out of range is noted
(kernels/launch/faults.py).

The gradient adds the rows of dy that belong to one row of the table in the order of their places. So the places are
sorted first, by keys of 64 bits, row << 32 | place, of which no two are equal:

    sort    a program sorts CHUNK keys: each goes where as many are less
    merge   runs of CHUNK, 2 CHUNK, ... keys are merged two by two: a key finds its place among those of the other run
            by binary search
    add     a program for each key and BLOCK columns. Where a row begins it adds all rows of dy, AHEAD of which are
            loaded at once. The programs of the other keys end at once

There are no atomics on floats, and no sum depends on the size of a block. Nothing is asked of the host, so all of it
can be captured. A place that is passed over (the padding, an index out of range) has the key of a row behind the last.

Traffic: dy and the index are read once. dx is filled with zeros, and the rows that the index names are written again.
The keys, 8 bytes a place, are written and read 1 + log2(M / CHUNK) times, from the L2 cache for all but huge batches.
A row that the index names often is added by one program: 10,000 places take some 0.3 ms (reasoned: 8 loads at once,
under a microsecond each round).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import triton
import triton.language as tl

from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch import faults
from tilegrad.kernels.launch.triton_dtypes import no_float64
from tilegrad.kernels.launch.triton_faults import note
from tilegrad.kernels.launch.triton_kernel import kernel
from tilegrad.kernels.sizes import cdiv, next_power_of_2
from tilegrad.kernels.take_rows.reference import check_take_rows, check_take_rows_grad, row_error

BLOCK = 4096  # bytes: 32 a thread, two of its widest loads
LEAST = 128
WARPS = 4
CHUNK = 256  # keys that a program sorts
COMPARED = 16  # with each of them at once
MERGED = 256  # keys of a program that merges
COLUMNS = 512  # that a program adds
AHEAD = tl.constexpr(8)  # rows of dy that are loaded at once

_ROW_SHIFT = tl.constexpr(32)
_LAST = tl.constexpr((1 << 63) - 1)
_PLACE = tl.constexpr((1 << 32) - 1)


@triton.jit
def _row_of(index_ptr, fault_ptr, rows, place, WRAP: tl.constexpr):
    """(the row that the index at these places means, whether x has it); a row that x has not is noted as a fault."""
    found = tl.load(index_ptr + place).to(tl.int64)
    row = found
    if WRAP:
        row = tl.where(found < 0, found + rows, found)
    inside = (row >= 0) & (row < rows)
    note(fault_ptr, place, found, inside == 0)
    return row, inside


@kernel
def _rows_kernel(
    x_ptr, index_ptr, y_ptr, fault_ptr, rows, size, blocks, scale, shift,
    SCALED: tl.constexpr, WRAP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """x: (rows, size) uint8. index: (M,). y: (M, size) uint8, or float32 if SCALED. fault: a slot.

    Program j * blocks + k has the k-th of the blocks of row j of y.
    """
    program = tl.program_id(0)
    place = (program // blocks).to(tl.int64) + tl.arange(0, 1)
    row, inside = _row_of(index_ptr, fault_ptr, rows, place, WRAP)
    i = (program % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * size + i, mask=inside & (i < size), other=255)
    if SCALED:
        y = tl.where(inside, x.to(tl.float32) * scale + shift, float("nan"))
    else:
        y = x
    tl.store(y_ptr + place * size + i, y, mask=i < size)


def take_rows(x: Any, index: Any, scale: float | None = None, shift: float = 0.0, wrap: bool = True) -> Any:
    """take_rows.reference.take_rows; the index may have any memory order, and the host does not wait for it."""
    check_take_rows(x, index, scale)
    xp = gpu.xp()
    x, index = xp.ascontiguousarray(x), xp.ascontiguousarray(index)
    y = xp.empty((index.size, *x.shape[1:]), x.dtype if scale is None else np.float32)
    size = math.prod(x.shape[1:]) * x.itemsize
    block = min(BLOCK, max(LEAST, next_power_of_2(size)))
    blocks = cdiv(size, block)
    _rows_kernel(
        (index.size * blocks,),
        x.reshape(-1).view(np.uint8),
        index,
        y.reshape(-1).view(np.uint8) if scale is None else y,
        faults.watch(row_error, "take_rows", len(x), bool(wrap)),
        len(x),
        size,
        blocks,
        float(1.0 if scale is None else scale),
        float(shift),
        SCALED=scale is not None,
        WRAP=bool(wrap),
        BLOCK=block,
        num_warps=WARPS,
    )
    return y


@triton.jit
def _key_of(index_ptr, i, n, index_step, rows, padding, WRAP: tl.constexpr):
    """(the key of place i, its index, whether that is no row's); a place that is not there has the last key."""
    there = i < n
    found = tl.load(index_ptr + i * index_step, mask=there, other=0).to(tl.int64)
    row = found
    if WRAP:
        row = tl.where(found < 0, found + rows, found)
    inside = (row >= 0) & (row < rows)
    row = tl.where(inside & (row != padding), row, tl.cast(rows, tl.int64))
    return tl.where(there, (row << _ROW_SHIFT) | i, _LAST), found, there & (inside == 0)


@kernel
def _sort_kernel(
    index_ptr, keys_ptr, fault_ptr, rows, n, index_step, padding,
    WRAP: tl.constexpr, CHUNK: tl.constexpr, STEP: tl.constexpr,
):  # fmt: skip
    """index: (n,). keys: (n,) int64, sorted in chunks. fault: a slot. padding: a row that is passed over, or -1.

    A key goes where as many of its chunk are less; STEP of them are compared at once.
    """
    first = tl.program_id(0).to(tl.int64) * CHUNK
    i = first + tl.arange(0, CHUNK)
    key, found, is_fault = _key_of(index_ptr, i, n, index_step, rows, padding, WRAP)
    note(fault_ptr, i, found, is_fault)
    less = tl.zeros([CHUNK], tl.int32)
    for start in range(0, CHUNK, STEP):
        other, _, _ = _key_of(index_ptr, first + start + tl.arange(0, STEP), n, index_step, rows, padding, WRAP)
        less += tl.sum((other[None, :] < key[:, None]).to(tl.int32), 1)
    tl.store(keys_ptr + first + less, key, mask=i < n)


@kernel
def _merge_kernel(from_ptr, to_ptr, n, run, steps, BLOCK: tl.constexpr):
    """from, to: (n,) int64, in sorted runs of `run` and of 2 * run. steps: of the search, log2(run) + 1."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = i < n
    key = tl.load(from_ptr + i, mask=there, other=0)
    mine = i // run
    first = tl.minimum((mine ^ 1) * run, n)  # of the other run; a last run without another one has none
    low = first
    high = tl.minimum(first + run, n)
    for _ in range(steps):
        middle = (low + high) // 2
        open_ = low < high
        less = tl.load(from_ptr + middle, mask=there & open_, other=0) < key
        low = tl.where(open_ & less, middle + 1, low)
        high = tl.where(open_ & (less == 0), middle, high)
    to = i // (2 * run) * (2 * run) + i % run + (low - first)
    tl.store(to_ptr + to, key, mask=there)


@kernel
def _add_kernel(
    dy_ptr, keys_ptr, dx_ptr, rows, n, width, dy_row, dy_column, blocks, BLOCK: tl.constexpr
):  # fmt: skip
    """dy: (n, width), with its strides in elements. keys: (n,) int64, sorted. dx: (rows, width), zeros before.

    Program j * blocks + k has the k-th of the blocks of columns, for the row that begins at key j, if one does.
    """
    program = tl.program_id(0)
    j = (program // blocks).to(tl.int64)
    row = tl.load(keys_ptr + j) >> _ROW_SHIFT
    before = tl.load(keys_ptr + j - 1, mask=j > 0, other=-1) >> _ROW_SHIFT
    more = (row != before) & (row < rows)
    if more:
        column = (program % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        within = column < width
        total = tl.zeros([BLOCK], tl.float32)
        while more:
            for k in tl.static_range(AHEAD):
                place = j + k + tl.arange(0, 1)
                key = tl.load(keys_ptr + place, mask=place < n, other=_LAST)
                here = dy_ptr + (key & _PLACE) * dy_row + column * dy_column
                total += tl.load(here, mask=within & ((key >> _ROW_SHIFT) == row), other=0.0).to(tl.float32)
            j += AHEAD
            more = tl.load(keys_ptr + j, mask=j < n, other=_LAST) >> _ROW_SHIFT == row
        tl.store(dx_ptr + row * width + column, total.to(dx_ptr.dtype.element_ty), mask=within)


def take_rows_grad(dy: Any, index: Any, rows: int, padding: int | None = None, wrap: bool = True) -> Any:
    """take_rows.reference.take_rows_grad; an index out of range is raised by the next synchronisation."""
    op = "take_rows_grad"
    no_float64(op, check_take_rows_grad(dy, index, rows, padding))
    xp = gpu.xp()
    dx = xp.zeros((rows, *dy.shape[1:]), dy.dtype)
    n, width = index.size, math.prod(dy.shape[1:])
    keys = _sorted(index, faults.watch(row_error, op, rows, bool(wrap)), rows, padding, bool(wrap))
    if dx.size and n:
        dy = dy.reshape(n, width)
        block = min(COLUMNS, next_power_of_2(width))
        blocks = cdiv(width, block)
        steps = [stride // dy.itemsize for stride in dy.strides]
        _add_kernel((n * blocks,), dy, keys, dx, rows, n, width, *steps, blocks, BLOCK=block, num_warps=WARPS)
    return dx


def _sorted(index: Any, fault: Any, rows: int, padding: int | None, wrap: bool) -> Any:
    """The keys of all places, sorted."""
    n = index.size
    keys, other = (gpu.xp().empty(n, np.int64) for _ in range(2))
    numbers = rows, n, index.strides[0] // index.itemsize, -1 if padding is None else int(padding)
    blocks = {"CHUNK": CHUNK, "STEP": min(COMPARED, CHUNK)}
    _sort_kernel((cdiv(n, CHUNK),), index, keys, fault, *numbers, WRAP=wrap, **blocks, num_warps=WARPS)
    run = CHUNK
    while run < n:
        _merge_kernel((cdiv(n, MERGED),), keys, other, n, run, run.bit_length(), BLOCK=MERGED, num_warps=WARPS)
        keys, other, run = other, keys, 2 * run
    return keys
