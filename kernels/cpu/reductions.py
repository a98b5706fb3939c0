"""Reductions over any axes of a large dense array, in stages that threads share.

In the order of memory neighbouring axes that are reduced, or that are kept, are one. A stage reduces the innermost
group that is left. Seen as

    x (outer, n, inner)

it has rows to reduce if inner is 1, otherwise columns. It is cut into parts by its sizes alone, never by how many
threads there are, and so are the bits. Parts of one row or column are reduced by the next stage.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tilegrad.kernels.cpu import buffers, threads
from tilegrad.kernels.sizes import cdiv

_LONG_ROW = 1 << 14  # elements of a part
_ENOUGH_ROWS = 1 << 6  # so many need no parts to keep threads busy
_LONG_COLUMN = 1 << 6
_WIDTH = 1 << 10  # columns of a part, that stay in the first cache
_NARROW = 1 << 6  # columns: fewer are no work for vectors


class Kernels(NamedTuple):
    """What reduces the parts of a stage; x and y are dense, of one dtype, and flat.

    rows       (*first, x, y, n, length, parts): y[o, p] from x[o, p * length : (p + 1) * length]; an item is one of y
    columns    (*first, x, y, n, inner, length, parts, width): y[o, p, i] from x[o, p * length : (p + 1) * length, i];
               an item is `width` columns of a part
    arguments  the first ones of both
    """

    rows: Callable[..., None]
    columns: Callable[..., None]
    arguments: tuple[Any, ...] = ()


def reduced(kernels: Kernels, x: np.ndarray, axes: tuple[int, ...], keepdims: bool) -> np.ndarray | None:
    """x reduced over the axes, by kernels for its dtype; None if it is small, has gaps or is empty, or axes are none.

    Traffic: reads x once.
    """
    if x.nbytes <= threads.WORTH_SHARING or not axes or not x.flags.aligned:
        return None
    order = sorted(range(x.ndim), key=lambda axis: -x.strides[axis])
    dense = x.transpose(order)
    if not dense.flags.c_contiguous:
        return None
    gone = {axis % x.ndim for axis in axes}
    kept = [axis for axis in order if axis not in gone]
    groups: list[tuple[bool, int]] = []  # (whether it is reduced, size), outermost first
    for axis in order:
        if groups and groups[-1][0] == (axis in gone):
            groups[-1] = groups[-1][0], groups[-1][1] * x.shape[axis]
        else:
            groups.append((axis in gone, x.shape[axis]))
    y = dense.reshape(-1)
    while groups:
        is_reduced, n = groups.pop()
        if is_reduced:
            inner = y.size // (math.prod([size for _, size in groups]) * n)
            y = _stage(kernels, y, n, inner)
    y = y.reshape([x.shape[axis] for axis in kept]).transpose(np.argsort(kept))
    return y.reshape([1 if axis in gone else n for axis, n in enumerate(x.shape)]) if keepdims else y


def _stage(kernels: Kernels, x: np.ndarray, n: int, inner: int) -> np.ndarray:
    """x (outer, n, inner) reduced over n."""
    outer = x.size // (n * inner)
    most = x.size if x.nbytes > threads.WORTH_SHARING else 1
    together = _together(n, inner)
    if together > 1:  # columns of neighbouring rows side by side
        return _stage(kernels, _stage(kernels, x, n // together, inner * together), together, inner)
    if inner == 1:
        parts = cdiv(n, _LONG_ROW) if outer < _ENOUGH_ROWS else 1
        items, y = outer * parts, buffers.empty((outer * parts,), x.dtype)
        length = cdiv(n, parts)
        threads.share(kernels.rows, most, items, *kernels.arguments, x, y, n, length, parts)
    else:
        parts, width = cdiv(n, _LONG_COLUMN), min(inner, _WIDTH)
        items, y = outer * parts * cdiv(inner, width), buffers.empty((outer * parts * inner,), x.dtype)
        length = cdiv(n, parts)
        threads.share(kernels.columns, most, items, *kernels.arguments, x, y, n, inner, length, parts, width)
    return y if parts == 1 else _stage(kernels, y, parts, inner)


def _together(n: int, inner: int) -> int:
    """How many rows make one that is wide enough: a power of two that divides n."""
    together = 1
    while 1 < inner * together < _NARROW and n % (2 * together) == 0 and n > _LONG_COLUMN:
        together *= 2
    return together
