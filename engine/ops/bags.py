"""Sums and maxima of bags: of rows of a table that lie one behind the other in an index (kernels/bags)."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilegrad import capture_hooks, kernels
from tilegrad.autograd.record import record
from tilegrad.device import array_module
from tilegrad.dtypes import accumulator
from tilegrad.ops.arithmetic import add, div, mul
from tilegrad.ops.comparison import lt
from tilegrad.ops.index import take_rows_grad
from tilegrad.ops.operands import as_tensor, cast
from tilegrad.ops.selection import maximum, where
from tilegrad.ops.shape import reshape
from tilegrad.tensor import Tensor, wrap


def sum_bags(x: Tensor, index: Tensor, offsets: Tensor, bags: int, padding: int | None = None) -> Tensor:
    """y[b] = sum of x[i] over all i in bag b;  dx[r] = sum of dy[b] over the places of r, but for the padding."""
    arrays = x._data, _places(index), _places(offsets)
    y = kernels.of(*arrays).sum_bags(*arrays, bags, padding)
    rows = x._data.shape[0]
    return record("embedding_bag", y, (x,), lambda dy: (_sum_bags_grad(dy, index, offsets, rows, padding),))


def _sum_bags_grad(dy: Tensor, index: Tensor, offsets: Tensor, rows: int, padding: int | None) -> Tensor:
    arrays = dy._data, _places(index), _places(offsets)
    dx = kernels.of(*arrays).sum_bags_grad(*arrays, rows, padding)
    bags = dy._data.shape[0]
    return record("embedding_bag_grad", dx, (dy,), lambda g: (sum_bags(g, index, offsets, bags, padding),))


def mean_bags(x: Tensor, index: Tensor, offsets: Tensor, bags: int, padding: int | None = None) -> Tensor:
    """y[b] = mean of x[i] over all i in bag b, 0 where there is none: dy is divided on its way back."""
    arrays = x._data, _places(index), _places(offsets)
    y = kernels.of(*arrays).sum_bags(*arrays, bags, padding, True)
    rows = x._data.shape[0]

    def rule(dy: Tensor) -> tuple:
        one = wrap(array_module(dy._data).ones((rows, 1), accumulator(dy._data.dtype)))
        counts = maximum(sum_bags(one, index, offsets, bags, padding), 1.0)
        share = cast(div(dy, counts), dy._data.dtype)
        return (_sum_bags_grad(share, index, offsets, rows, padding),)

    return record("embedding_bag", y, (x,), rule)


def max_bags(x: Tensor, index: Tensor, offsets: Tensor, bags: int, padding: int | None = None) -> Tensor:
    """y[b] = largest x[i] (V, D) over all i in bag b, element by element, 0 where there is none; dy goes to it."""
    arrays = x._data, _places(index), _places(offsets)
    y, rows = map(wrap, kernels.of(*arrays).max_bags(*arrays, bags, padding))
    size, shape = x._data.size, x._data.shape

    def rule(dy: Tensor) -> tuple:
        columns = wrap(array_module(dy._data).arange(shape[1]))
        places = add(mul(maximum(rows, 0), shape[1]), columns)
        found = where(lt(rows, 0), 0.0, dy)
        return (reshape(take_rows_grad("embedding_bag_grad", found, places, size), shape),)

    return record("embedding_bag", y._data, (x,), rule)


def _places(index: Tensor) -> Any:
    """An index as a vector of a dtype that kernels take."""
    capture_hooks.reads(index)
    at = as_tensor("embedding_bag", index)._data.reshape(-1)
    return at if at.dtype == np.int64 or at.dtype == np.int32 else at.astype(np.int64)
