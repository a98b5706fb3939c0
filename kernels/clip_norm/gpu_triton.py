"""Clipping a list of arrays by their joint norm on a GPU, in Triton: clip_norm/reference.py in three launches.

    squares    a program adds up the squares of up to BLOCK elements of one array, which it finds in a table of
               addresses (kernels/multi_tensor/gpu_triton.py): one float32 a program
    norm       one program adds those up, in a fixed order, and has the norm and the factor
    scale      every array is multiplied by the factor where that is not 1

The host waits for nothing, so that a captured step (tilegrad.capture) can clip.

Traffic: 4 bytes a float32 element, 12 where they are clipped: the floor. The norm's program reads 4 bytes for every
BLOCK elements, 100 KB for 100 million parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import triton
import triton.language as tl

from tilegrad.kernels.clip_norm.reference import EPS, check_clip_norm
from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch.triton_dtypes import no_float64
from tilegrad.kernels.launch.triton_kernel import kernel
from tilegrad.kernels.multi_tensor.arrays import in_one_order, write_back
from tilegrad.kernels.multi_tensor.gpu_triton import find, pointer, tables
from tilegrad.kernels.sizes import next_power_of_2

BLOCK, WARPS = 4096, 8  # four 16-byte loads of floats a thread
PARTIALS = 4096  # that the norm's program adds at once

_EPS: tl.constexpr = tl.constexpr(EPS)


@triton.jit
def _block(
    table_ptr, tensors, ELEMENT: tl.constexpr, ALIGNED: tl.constexpr, TENSORS: tl.constexpr, BLOCK: tl.constexpr
):
    """(pointers to the elements of this program, how many of them are there).

    A whole block is read without a mask: under one that may end anywhere, loads do not vectorise.
    """
    column_ptr, start, left = find(table_ptr, tensors, TENSORS, BLOCK)
    return pointer(column_ptr, tensors, 0, ELEMENT, ALIGNED) + start + tl.arange(0, BLOCK), left


@kernel
def _squares_kernel(
    table_ptr, sums_ptr, tensors, before,
    ELEMENT: tl.constexpr, ALIGNED: tl.constexpr, TENSORS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """table: of arrays. sums: at least before + programs; those from `before` on are written."""
    x_ptrs, left = _block(table_ptr, tensors, ELEMENT, ALIGNED, TENSORS, BLOCK)
    if left >= BLOCK:
        x = tl.load(x_ptrs).to(tl.float32)
    else:
        x = tl.load(x_ptrs, mask=tl.arange(0, BLOCK) < left, other=0.0).to(tl.float32)
    tl.store(sums_ptr + before + tl.program_id(0), tl.sum(x * x, axis=0))


@kernel
def _norm_kernel(sums_ptr, norm_ptr, factor_ptr, n, max_norm, BLOCK: tl.constexpr):
    """sums: (n,). norm, factor: one element. One program."""
    i = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, n, BLOCK):
        total += tl.load(sums_ptr + start + i, mask=start + i < n, other=0.0)
    norm = tl.sqrt_rn(tl.sum(total, axis=0))
    factor = tl.div_rn(max_norm, norm + _EPS)
    tl.store(norm_ptr, norm)
    tl.store(factor_ptr, tl.where(factor >= 1.0, 1.0, factor))  # NaN stays NaN


@triton.jit
def _scale(x_ptrs, factor, inside, ELEMENT: tl.constexpr):
    x = tl.load(x_ptrs, mask=inside).to(tl.float32)
    tl.store(x_ptrs, (x * factor).to(ELEMENT), mask=inside)


@kernel
def _scale_kernel(
    table_ptr, factor_ptr, tensors,
    ELEMENT: tl.constexpr, ALIGNED: tl.constexpr, TENSORS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """table: of arrays, which are written. factor: one element."""
    factor = tl.load(factor_ptr)
    if factor != 1.0:
        x_ptrs, left = _block(table_ptr, tensors, ELEMENT, ALIGNED, TENSORS, BLOCK)
        if left >= BLOCK:
            _scale(x_ptrs, factor, None, ELEMENT)
        else:
            _scale(x_ptrs, factor, tl.arange(0, BLOCK) < left, ELEMENT)


def clip_norm_step(arrays: Sequence[Any], max_norm: float) -> Any:
    """As the reference; float16, bfloat16 and float32, and the norm is never waited for."""
    xp = gpu.xp()
    check_clip_norm(xp.ndarray, arrays, max_norm)
    for a in arrays:
        no_float64("clip_norm_step", a.dtype)
    tensors, copies = in_one_order([arrays])
    launches = tables(tensors, BLOCK)
    if not launches:
        return xp.zeros((), np.float32)
    programs = sum(table.programs for table, _ in launches)
    sums, numbers = xp.empty(programs, np.float32), xp.empty((2, 4), np.float32)  # each number 16-byte aligned
    before = 0
    for table, constexprs in launches:
        grid = (table.programs,)
        _squares_kernel(grid, table.array, sums, table.tensors, before, **constexprs, num_warps=WARPS)
        before += table.programs
    block = min(PARTIALS, max(32, next_power_of_2(programs)))
    norm, factor = numbers[0, :1], numbers[1, :1]
    _norm_kernel((1,), sums, norm, factor, programs, float(max_norm), BLOCK=block, num_warps=WARPS)
    for table, constexprs in launches:
        _scale_kernel((table.programs,), table.array, factor, table.tensors, **constexprs, num_warps=WARPS)
    write_back(copies)
    return norm.reshape(())
