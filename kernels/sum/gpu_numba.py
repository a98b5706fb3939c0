"""Sums over axes on a GPU, in Numba-CUDA: sum/reference.py, and the bias gradient of conv2d.

    y[k] = sum over r of x[k, r]

The axes of x are first put in the order of its memory, and neighbours of one kind, kept or summed, become one axis
where the strides allow. Usually that leaves at most two axes of each kind, x[outer, k, far, r], where k or r is the
axis with the smallest stride. An array whose kinds alternate more often is copied.

A block of threads is `lanes` along r times `columns` along k. threadIdx.x runs along memory: along r for rows, along k
for columns. A thread adds up every lanes-th element of its row or column, with four loads in flight. Then the lanes of
a sum are added in shared memory, each time in halves:

    rows      | t0 t1 t2 t3 | t0 t1 t2 t3 | ...             columns      t0 t1 t2 t3
              |_____________|_____________|                              t4 t5 t6 t7
                   t0  t1  t2  t3                                        t0 t1 t2 t3   (next rows)
                   t0 += t2,  t1 += t3                                   t4 t5 t6 t7
                   t0 += t1                                              t0 += t4,  t1 += t5,  ...

Where there are too few sums to fill the card, r is split: every part writes float32 sums to a workspace (parts, k),
whose columns a second launch adds up. The parts depend on the shape alone, and the order of additions is fixed: no
atomics, the same bits in every run.

float16 and float32, any strides.

Traffic: reads x.size * itemsize, writes y.size * itemsize; a split adds 8 bytes for each part and element of y. The
ceiling is memory: one addition an element. At 40 registers 6 blocks share a multiprocessor; 1536 threads with four
loads of a float each have 24 KB in flight, about what its part of 3 to 5 TB/s needs at under a microsecond. In float16
it is 12 KB, which is not enough; sum/gpu_triton.py loads 16 bytes at a time instead.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

from numpy import float32, int64, uint32

from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch.driver import MOST_ALONG
from tilegrad.kernels.launch.numba_dtypes import float_dtype, only_served
from tilegrad.kernels.launch.numba_kernel import Kernel, kernel
from tilegrad.kernels.launch.numba_target import SIMULATED, cuda, device
from tilegrad.kernels.sizes import cdiv, next_power_of_2
from tilegrad.kernels.sum.reference import check_sum
from tilegrad.kernels.windows import image_shape

THREADS = 16 if SIMULATED else 256
WARP = 4 if SIMULATED else 32
BLOCKS = 64 if SIMULATED else 1024  # enough to fill any card
LEAST_CHUNKS = 8  # of a part: fewer are not worth a second launch
MOST_BLOCKS = MOST_ALONG[2]  # along z; then a block takes several of outer

_ZERO = float32(0)


@device
def _four(row, r, lanes):
    """The sum of elements r, r + lanes, r + 2 lanes and r + 3 lanes of a row, as far as it goes."""
    if r + 3 * lanes < row.size:  # without a test for each, all four loads are under way at once
        a, b = float32(row[r]), float32(row[r + lanes])
        c, d = float32(row[r + 2 * lanes]), float32(row[r + 3 * lanes])
        return (a + b) + (c + d)
    total = _ZERO
    while r < row.size:  # a range with a step would divide to count its iterations
        total += float32(row[r])
        r += lanes
    return total


@functools.cache
def _sum_kernel(rows: bool) -> Kernel:
    """rows: threadIdx.x runs along r; else along k."""

    @kernel
    def _sum_kernel(x, y, chunks, chunks_of_a_part):
        """x: (outer, kept, far, summed). y: (parts, outer, kept). A chunk is 4 elements of r a lane, of one far.

        Blocks: (kept / columns, parts, outer).
        """
        sums = cuda.shared.array(THREADS, float32)
        me = cuda.threadIdx.y * cuda.blockDim.x + cuda.threadIdx.x
        if rows:
            lane, lanes, apart = cuda.threadIdx.x, cuda.blockDim.x, 1
            k = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
        else:
            lane, lanes, apart = cuda.threadIdx.y, cuda.blockDim.y, cuda.blockDim.x
            k = cuda.grid(1)
        part = cuda.blockIdx.y
        begin = part * chunks_of_a_part
        end = min(begin + chunks_of_a_part, chunks * x.shape[2])

        outer = cuda.blockIdx.z
        while outer < x.shape[0]:
            total = _ZERO
            if k < x.shape[1]:
                far = int64(uint32(begin) // uint32(chunks))  # in 64 bits it would take half of the registers
                chunk = begin - far * chunks
                for _ in range(begin, end):
                    total += _four(x[outer, k, far], chunk * 4 * lanes + lane, lanes)
                    chunk += 1
                    if chunk == chunks:  # counted, as a division would cost more than the loads
                        far, chunk = far + 1, 0

            sums[me] = total
            half = lanes >> 1
            while half > 0:
                cuda.syncthreads()
                if lane < half:
                    sums[me] += sums[me + half * apart]
                half >>= 1
            if lane == 0 and k < x.shape[1]:
                y[part, outer, k] = sums[me]
            cuda.syncthreads()  # before the sums are written anew
            outer += cuda.gridDim.z

    return _sum_kernel


def sum(x: Any, axes: tuple[int, ...], keepdims: bool = False) -> Any:
    """sum.reference.sum."""
    only_served("sum", check_sum(x, axes))
    return _sum(x, axes, keepdims)


def conv2d_grad_bias(dy: Any) -> Any:
    """conv2d.reference.conv2d_grad_bias."""
    op = "conv2d_grad_bias"
    float_dtype(op, dy=dy)
    image_shape(op, "dy", dy.shape)
    return _sum(dy, (0, 2, 3), keepdims=False)


def add_parts(parts: Any, dtype: Any) -> Any:
    """The sum over the rows of parts (parts, k), float32 and dense, as (k,) of a dtype."""
    rows, k = parts.shape
    y = gpu.xp().zeros(k, dtype)
    if parts.size:
        _launch(parts.transpose().reshape(1, k, 1, rows), y, rows=k == 1, most=1)
    return y


def _sum(x: Any, axes: tuple[int, ...], keepdims: bool) -> Any:
    xp = gpu.xp()
    plan = _plan(x.shape, x.strides, axes)
    if plan.view is None:
        y = xp.zeros(plan.shape, x.dtype)
    else:
        y = xp.empty(plan.shape, x.dtype)
        _launch(_seen(x, plan.view), y, plan.rows)
    if plan.order is not None:
        y = y.transpose(plan.order)
    return y.reshape(plan.with_ones) if keepdims else y


def _launch(x: Any, y: Any, rows: bool, most: int = BLOCKS) -> None:
    """Sum x (outer, kept, far, summed) into y, so many elements in any shape, in at most so many blocks if in parts."""
    outer, kept, far, summed = x.shape
    lanes, columns = _block(kept, summed, rows)
    chunks = cdiv(summed, 4 * lanes)
    blocks = outer * cdiv(kept, columns)
    parts = max(1, min(cdiv(most, blocks), far * chunks // LEAST_CHUNKS))
    of_a_part = cdiv(far * chunks, parts)
    parts = cdiv(far * chunks, of_a_part)

    if parts == 1:
        sums = y.reshape(1, outer, kept)
    else:
        sums = gpu.xp().empty((parts, outer, kept), "float32")
    grid = cdiv(kept, columns), parts, min(outer, MOST_BLOCKS)
    _sum_kernel(rows)(grid, (lanes, columns) if rows else (columns, lanes), x, sums, chunks, of_a_part)
    if parts > 1:
        over_parts = sums.reshape(parts, y.size).transpose().reshape(1, y.size, 1, parts)
        _launch(over_parts, y, rows=y.size == 1, most=1)


def _block(kept: int, summed: int, rows: bool) -> tuple[int, int]:
    """(lanes along r, columns along k) of a block, powers of two. A lane has at least four elements, if it can."""
    wide_r, wide_k = next_power_of_2(cdiv(summed, 4)), next_power_of_2(kept)
    lanes = min(wide_r, THREADS if rows else THREADS // min(WARP, wide_k))
    return lanes, min(THREADS // lanes, wide_k)


class _View(NamedTuple):
    """How x is seen as (outer, kept, far, summed): x.transpose(..).reshape(..).transpose(..).reshape(..)."""

    in_memory: tuple[int, ...]
    merged: tuple[int, ...]
    kept_first: tuple[int, ...]
    shape: tuple[int, int, int, int]


class _Plan(NamedTuple):
    """How arrays of one shape and strides are summed."""

    shape: tuple[int, ...]  # of y, its axes in the order of x's memory
    order: tuple[int, ...] | None  # transposes that y to the order in which x has the axes, if it is another
    with_ones: tuple[int, ...]  # the shape that keepdims asks for
    view: _View | None  # None if there is nothing to sum
    rows: bool  # whether the axis with the smallest stride is summed


@functools.lru_cache(maxsize=4096)  # training asks for the same few sums at every step
def _plan(shape: tuple[int, ...], strides: tuple[int, ...], axes: tuple[int, ...]) -> _Plan:
    summed = {axis % len(shape) for axis in axes}
    in_memory = sorted(range(len(shape)), key=lambda axis: -abs(strides[axis]))
    kept = [axis for axis in in_memory if axis not in summed]
    order = tuple(kept.index(axis) for axis in sorted(kept))
    plan = _Plan(
        shape=tuple(shape[axis] for axis in kept),
        order=None if order == tuple(range(len(order))) else order,
        with_ones=tuple(1 if axis in summed else n for axis, n in enumerate(shape)),
        view=None,
        rows=False,
    )
    if 0 in shape:
        return plan
    merged = _merged([(axis in summed, shape[axis], strides[axis]) for axis in in_memory])
    k, r = ([i for i, (kind, _, _) in enumerate(merged) if kind == wanted] for wanted in (False, True))
    too_long = len(r) == 2 and merged[r[0]][1] * merged[r[1]][1] >= 1 << 32  # to count its chunks in 32 bits
    if len(k) > 2 or len(r) > 2 or too_long:  # reshape copies
        k_size, r_size = (math.prod(merged[i][1] for i in part) for part in (k, r))
        by_kind = (*kept, *(axis for axis in in_memory if axis in summed))
        return plan._replace(view=_View(by_kind, (k_size, r_size), (0, 1), (1, k_size, 1, r_size)), rows=True)
    sizes = tuple(size for _, size, _ in merged)
    outer_and_kept, far_and_summed = ((1, 1, *(sizes[i] for i in part))[-2:] for part in (k, r))
    view = _View(tuple(in_memory), sizes, (*k, *r), (*outer_and_kept, *far_and_summed))
    return plan._replace(view=view, rows=bool(merged) and merged[-1][0])


def _merged(axes: list[tuple[bool, int, int]]) -> list[tuple[bool, int, int]]:
    """Neighbours of one kind as one axis where a step of the first is all of the second: (summed?, size, stride)."""
    merged: list[tuple[bool, int, int]] = []
    for kind, size, stride in axes:
        if size == 1:
            continue
        if merged and merged[-1][0] == kind and merged[-1][2] == size * stride:
            size *= merged.pop()[1]
        merged.append((kind, size, stride))
    return merged


def _seen(x: Any, view: _View) -> Any:
    return x.transpose(view.in_memory).reshape(view.merged).transpose(view.kept_first).reshape(view.shape)
