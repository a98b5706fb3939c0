"""Memory orders for elementwise kernels: arrays without holes, all walked in one order.

An elementwise kernel sees memory, not axes: element i of every array it is given must be the same element. A *dense*
array has no holes and no negative strides, in whatever order of its axes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tilegrad.kernels.device import gpu


def empty_like(x: Any, dtype: Any = None) -> Any:
    """New dense memory of x's shape, with the axes in x's memory order."""
    xp, dtype = gpu.xp(), x.dtype if dtype is None else dtype
    if x.flags.c_contiguous:
        return xp.empty(x.shape, dtype)
    # An axis of stride 0 or length 1 has no place of its own in memory: it stays where it is in row-major order.
    order = sorted(range(x.ndim), key=lambda axis: -abs(x.strides[axis]))
    return xp.empty([x.shape[axis] for axis in order], dtype).transpose(np.argsort(order).tolist())


def dense(x: Any) -> Any:
    """x if it is dense, else a dense copy in its memory order."""
    return x if is_dense(x) else _copy_into(empty_like(x), x)


def dense_as(x: Any, like: Any) -> Any:
    """x if it walks memory as `like`, which is dense and of its shape, does; else a copy that does."""
    if x.flags.c_contiguous and like.flags.c_contiguous or _steps(x) == _steps(like):
        return x
    return _copy_into(empty_like(like, x.dtype), x)


def memory_order(x: Any) -> Any:
    """A dense x as one row of its elements in the order they lie in memory: a view."""
    if x.flags.c_contiguous:
        return x.reshape(-1)
    order = sorted(range(x.ndim), key=lambda axis: -abs(x.strides[axis]))
    return x.transpose(order).reshape(-1)


def transposed(x: Any) -> tuple[int, int, int] | None:
    """(N, R, S) where dense memory is, after merging axes, logically that and in memory (N, S, R); else None."""
    axes = [axis for axis, n in enumerate(x.shape) if n != 1]
    order = sorted(axes, key=lambda axis: -x.strides[axis])
    lead = next(i for i, (axis, other) in enumerate(zip(axes, order, strict=True)) if axis != other)
    turn = axes.index(order[lead])
    if order[lead:] != axes[turn:] + axes[lead:turn]:
        return None
    n, r, s = (math.prod(x.shape[axis] for axis in part) for part in (axes[:lead], axes[lead:turn], axes[turn:]))
    return n, r, s


def is_dense(x: Any) -> bool:
    """Whether x has no holes and no negative strides."""
    if x.flags.c_contiguous:
        return True
    expected = x.itemsize
    for stride, n in sorted(zip(x.strides, x.shape, strict=True)):
        if n != 1:
            if stride != expected:
                return False
            expected *= n
    return True


def _steps(x: Any) -> list[int]:
    return [stride // x.itemsize for stride in x.strides]


def _copy_into(y: Any, x: Any) -> Any:
    y[...] = x
    return y
