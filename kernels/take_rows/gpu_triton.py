"""Rows of a table by their index on a GPU, in Triton: take_rows/reference.py.

A program copies up to BLOCK bytes of one row, whatever its dtype; with a scale, as many pixels of an image, which
become floats. Neighbours in a row are neighbours in a warp, 16 bytes a thread where 16 divides the rows.

Traffic: reads and writes the rows once: that is the floor. A batch of 64 MNIST images is 50 KB read, 200 KB written,
so the launch takes most of the time. Nothing waits for the index: one that is out of range is noted
(kernels/launch/faults.py).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import triton
import triton.language as tl

from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch import faults
from tilegrad.kernels.launch.triton_faults import note
from tilegrad.kernels.launch.triton_kernel import kernel
from tilegrad.kernels.sizes import cdiv, next_power_of_2
from tilegrad.kernels.take_rows.reference import check_take_rows, row_error

BLOCK = 4096  # bytes: 32 a thread, two of its widest loads
LEAST = 128
WARPS = 4


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
