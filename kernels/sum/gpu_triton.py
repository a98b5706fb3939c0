"""Sums over axes on a GPU, in Triton: sum/reference.py, and the bias gradient of conv2d.

    y[k] = sum over r of x[k, r]

The axes of x are first put in the order of its memory, and neighbours of one kind, kept or summed, become one axis
where the strides allow. What is left has at most two axes of each kind,

    x[outer, k] summed over [far, r]        k or r is the axis with the smallest stride

whatever the shape was: rows (k, r), columns (r, k), images (far, k, r), an axis in the middle (outer, r, k). What
alternates more often is copied. One program adds up tiles of (BLOCK_R x BLOCK_K) elements of x, element by element in
float32, and sums the tile over r when it has seen all: short chains of additions, which lose little to rounding.

Where k is too short to fill the card, r is split: every part writes float32 sums to a workspace (parts, k), whose
columns a second launch adds up. The parts depend on the shape alone and are added in order: no atomics, the same bits
in every run.

float16, bfloat16 and float32, any strides.

Traffic: reads x.size * itemsize, writes y.size * itemsize; a split adds 8 bytes for each part and element of y, for
columns at most 1/64 of x. The limit is memory: one addition an element.

A tile of 2048 elements on 4 warps is 16 a thread: four 16-byte loads of floats in flight, two of halves. At 48
registers 10 programs share a multiprocessor, with 40 to 80 KB on their way, twice what its part of 3 to 5 TB/s takes
at under a microsecond. Lanes run along the axis with the smallest stride: a cache line of 128 bytes if it is k (the
rest of the tile are rows, so that even a short k makes many programs), up to the whole tile if it is r. Along a stride
that 16 does not divide, elements are loaded one by one, side by side. A whole tile is loaded without a mask over r:
under one that may end anywhere a thread loads its four neighbours one by one, each with a quarter of every sector.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import triton.language as tl

from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch.triton_dtypes import float_dtype, no_float64
from tilegrad.kernels.launch.triton_kernel import kernel
from tilegrad.kernels.sizes import cdiv, next_power_of_2
from tilegrad.kernels.sum.reference import check_sum
from tilegrad.kernels.windows import image_shape

TILE = 2048  # elements
LINE = 128  # bytes
PROGRAMS = 1024  # enough to fill any card several times over
LEAST_TILES = 8  # of a part: fewer are not worth a second launch


@kernel
def _sum_kernel(
    x_ptr, y_ptr, kept, summed, far, k_stride, r_stride, outer_stride, far_stride, tiles, part_stride,
    BLOCK_K: tl.constexpr, BLOCK_R: tl.constexpr, FAR: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """x: (outer, kept, far, summed), strides in elements. y: (parts, outer, kept), dense; a part is so many tiles.

    Programs: (outer * blocks of kept, parts). FAR: far > 1. EVEN: BLOCK_R divides summed.
    """
    blocks = tl.cdiv(kept, BLOCK_K)
    outer = (tl.program_id(0) // blocks).to(tl.int64)
    k = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK_K + tl.arange(0, BLOCK_K)
    part = tl.program_id(1).to(tl.int64)
    rows = tl.cdiv(summed, BLOCK_R)
    lane = tl.arange(0, BLOCK_R)
    columns = x_ptr + outer * outer_stride + k[None, :] * k_stride

    total = tl.zeros((BLOCK_R, BLOCK_K), tl.float32)
    for tile in range(part * tiles, tl.minimum((part + 1) * tiles, tl.cast(far, tl.int64) * rows)):
        tile = tl.cast(tile, tl.int64)  # which the interpreter does not take from the bounds
        if FAR:
            r = tile % rows * BLOCK_R + lane
            start = columns + tile // rows * far_stride
        else:
            r = tile * BLOCK_R + lane
            start = columns
        here = start + r[:, None] * r_stride
        inside = (k < kept)[None, :]
        if EVEN or (tile % rows + 1) * BLOCK_R <= summed:
            total += tl.load(here, mask=inside, other=0.0).to(tl.float32)
        else:  # the mask keeps a thread from loading its neighbours at once
            total += tl.load(here, mask=inside & (r < summed)[:, None], other=0.0).to(tl.float32)
    y = tl.sum(total, axis=0).to(y_ptr.dtype.element_ty)
    tl.store(y_ptr + part * part_stride + outer * kept + k, y, mask=k < kept)


def sum(x: Any, axes: tuple[int, ...], keepdims: bool = False) -> Any:
    """sum.reference.sum."""
    no_float64("sum", check_sum(x, axes))
    return _sum(x, axes, keepdims)


def conv2d_grad_bias(dy: Any) -> Any:
    """conv2d.reference.conv2d_grad_bias."""
    op = "conv2d_grad_bias"
    float_dtype(op, dy=dy)
    image_shape(op, "dy", dy.shape)
    return _sum(dy, (0, 2, 3), keepdims=False)


def add_parts(parts: Any, dtype: Any) -> Any:
    """The sum over the rows of parts (parts, k), float32 and dense, as (k,) of a dtype."""
    y = gpu.xp().zeros(parts.shape[1], dtype)
    if parts.size:
        _launch(_over_columns(*parts.shape), parts, y)
    return y


def _sum(x: Any, axes: tuple[int, ...], keepdims: bool) -> Any:
    xp = gpu.xp()
    plan = _plan(x.shape, x.strides, x.itemsize, axes)
    if plan.launch is None:
        y = xp.zeros(plan.shape, x.dtype)
    else:
        y = xp.empty(plan.shape, x.dtype)
        _launch(plan.launch, x if plan.copied is None else xp.ascontiguousarray(x.transpose(plan.copied)), y)
    if plan.order is not None:
        y = y.transpose(plan.order)
    return y.reshape(plan.with_ones) if keepdims else y


def _launch(launch: _Launch, x: Any, y: Any) -> None:
    parts, grid, numbers, blocks = launch
    if parts == 1:
        _sum_kernel(grid, x, y, *numbers, **blocks)
        return
    workspace = gpu.xp().empty((parts, y.size), "float32")
    _sum_kernel(grid, x, workspace, *numbers, **blocks)
    _launch(_over_columns(parts, y.size), workspace, y)


class _Axis(NamedTuple):
    size: int
    stride: int  # in elements


class _Launch(NamedTuple):
    parts: int
    grid: tuple[int, int]
    numbers: tuple[int, ...]
    blocks: dict[str, int | bool]


class _Plan(NamedTuple):
    """How arrays of one shape and strides are summed."""

    shape: tuple[int, ...]  # of y, its axes in the order of x's memory
    order: tuple[int, ...] | None  # transposes that y to the order in which x has the axes, if it is another
    with_ones: tuple[int, ...]  # the shape that keepdims asks for
    copied: tuple[int, ...] | None  # the order of axes in which x is copied first, if need be
    launch: _Launch | None  # None if there is nothing to sum


@lru_cache(maxsize=4096)  # planning costs more than a launch, and training asks for the same few sums at every step
def _plan(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int, axes: tuple[int, ...]) -> _Plan:
    """For x of that shape, with these strides in bytes."""
    summed = {axis % len(shape) for axis in axes}
    in_memory = sorted(range(len(shape)), key=lambda axis: -abs(strides[axis]))
    kept = [axis for axis in in_memory if axis not in summed]
    order = tuple(kept.index(axis) for axis in sorted(kept))
    plan = _Plan(
        shape=tuple(shape[axis] for axis in kept),
        order=None if order == tuple(range(len(order))) else order,
        with_ones=tuple(1 if axis in summed else n for axis, n in enumerate(shape)),
        copied=None,
        launch=None,
    )
    if 0 in shape:
        return plan
    merged = _merged([(axis in summed, _Axis(shape[axis], strides[axis] // itemsize)) for axis in in_memory])
    k, r = ([axis for is_summed, axis in merged if is_summed == wanted] for wanted in (False, True))
    along_r = bool(merged) and merged[-1][0]
    if len(k) > 2 or len(r) > 2:
        size = math.prod(axis.size for axis in r)
        k, r, along_r = [_Axis(math.prod(axis.size for axis in k), size)], [_Axis(size, 1)], True
        plan = plan._replace(copied=(*kept, *(axis for axis in in_memory if axis in summed)))
    return plan._replace(launch=_tiled(k, r, along_r, itemsize))


def _merged(axes: list[tuple[bool, _Axis]]) -> list[tuple[bool, _Axis]]:
    """Neighbours of one kind (summed or not) as one axis where a step of the first is all of the second."""
    merged: list[tuple[bool, _Axis]] = []
    for kind, axis in axes:
        if axis.size == 1:
            continue
        if merged and merged[-1][0] == kind and merged[-1][1].stride == axis.size * axis.stride:
            _, before = merged.pop()
            axis = _Axis(before.size * axis.size, axis.stride)
        merged.append((kind, axis))
    return merged


def _tiled(kept: list[_Axis], summed: list[_Axis], along_r: bool, itemsize: int, most: int = PROGRAMS) -> _Launch:
    """Tiles and parts for at most two axes of each kind; along_r: the smallest stride is a summed axis'."""
    one = _Axis(1, 0)
    outer, k = (one, one, *kept)[-2:]
    far, r = (one, one, *summed)[-2:]
    wide_k, wide_r = next_power_of_2(k.size), next_power_of_2(r.size)
    if along_r:
        block_r = min(TILE, wide_r)
    else:
        block_r = min(TILE // min(LINE // itemsize, wide_k), wide_r)
    block_k = min(TILE // block_r, wide_k)

    programs, tiles = outer.size * cdiv(k.size, block_k), far.size * cdiv(r.size, block_r)
    parts = max(1, min(cdiv(most, programs), tiles // LEAST_TILES))
    of_a_part = cdiv(tiles, parts)
    parts = cdiv(tiles, of_a_part)
    sizes, strides = (k.size, r.size, far.size), (k.stride, r.stride, outer.stride, far.stride)
    return _Launch(
        parts=parts,
        grid=(programs, parts),
        numbers=(*sizes, *strides, of_a_part, outer.size * k.size),
        blocks={"BLOCK_K": block_k, "BLOCK_R": block_r, "FAR": far.size > 1, "EVEN": r.size % block_r == 0},
    )


@lru_cache(maxsize=4096)
def _over_columns(rows: int, columns: int) -> _Launch:
    """The launch that adds up the rows of a workspace, in one part."""
    return _tiled([_Axis(columns, 1)], [_Axis(rows, columns)], columns == 1, itemsize=4, most=1)
