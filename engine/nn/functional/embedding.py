"""Rows of a table by their index."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilegrad import capture_hooks, ops
from tilegrad.autograd.record import record
from tilegrad.create import arange
from tilegrad.nn.functional.arguments import is_int, one_of, require_tensor
from tilegrad.ops.bags import max_bags, mean_bags, sum_bags
from tilegrad.ops.constants import constant
from tilegrad.ops.index import require_range, take_rows_grad, taken_rows
from tilegrad.ops.operands import require_float, require_one_device
from tilegrad.tensor import Tensor

one_hot = ops.one_hot


def embedding(input: Tensor, weight: Tensor, padding_idx: int | None = None) -> Tensor:
    """weight[input]: input (...) integers, weight (V, D) -> (..., D);  dweight[v] = sum of dy where input = v.

    padding_idx  a row that gets no gradient; a negative one counts from the end

    Raises TypeError for dtypes, ValueError for shapes and padding_idx, IndexError for an index out of range (on a
    GPU it comes when the program next waits for the GPU).
    """
    require_tensor("embedding", input=input)
    require_float("embedding", weight)
    require_one_device("embedding", input, weight)
    if input.dtype.kind not in "iu":
        raise TypeError(f"embedding: input is {input.dtype}; expected integers")
    if weight.ndim != 2:
        raise ValueError(f"embedding: weight is {weight.shape}; expected (V, D)")
    rows = weight.shape[0]
    padding_idx = padding_row("embedding", padding_idx, rows)
    if not weight.is_cuda:
        require_range(IndexError, "embedding: indices run", "index", input, rows)
    y = taken_rows(weight, input, wrap=False)

    def rule(dy: Tensor) -> tuple:
        return (take_rows_grad("embedding_grad", dy, input, rows, padding_idx),)

    return record("embedding", y, (weight,), rule)


def embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    *,
    mode: str = "mean",
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """One vector a bag: the sum, mean or maximum of the rows of weight (V, D) that the bag names -> (B, D).

    input                bags of integers: (B, L), a bag a row; or (M,) with offsets
    offsets              (B,) integers from 0 up: where each bag begins. An empty bag gives 0
    mode                 "sum", "mean" or "max"
    per_sample_weights   a factor for each index, of input's shape and weight's dtype; for "sum" alone
    include_last_offset  there is one more offset, the end of the last bag
    padding_idx          a row that counts in no bag, and gets no gradient; a negative one counts from the end

    The rows are read once, and are not kept. Raises TypeError for dtypes, ValueError for shapes, options and offsets,
    IndexError for an index out of range, NotImplementedError for factors with another mode. (On a GPU what is wrong
    with indices and offsets is raised when the program next waits for the GPU.)
    """
    op = "embedding_bag"
    require_tensor(op, input=input)
    require_float(op, weight)
    one_of(op, "mode", mode, tuple(_MODES))
    if weight.ndim != 2:
        raise ValueError(f"{op}: weight is {weight.shape}; expected (V, D)")
    offsets, bags = _bags(op, input, offsets, include_last_offset)
    require_one_device(op, input, weight, offsets)
    padding = padding_row(op, padding_idx, weight.shape[0])
    if per_sample_weights is not None:
        if mode != "sum":
            raise NotImplementedError(f"{op}: mode is {mode!r}; expected 'sum' with per_sample_weights")
        return _weighted(op, input, weight, offsets, bags, per_sample_weights, padding)
    return _MODES[mode](weight, input, offsets, bags, padding)


_MODES = {"sum": sum_bags, "mean": mean_bags, "max": max_bags}


def _weighted(
    op: str, input: Tensor, weight: Tensor, offsets: Tensor, bags: int, factors: Any, padding: int | None
) -> Tensor:
    require_tensor(op, per_sample_weights=factors)
    if factors.dtype != weight.dtype:
        raise TypeError(f"{op}: per_sample_weights is {factors.dtype} but weight {weight.dtype}; expected one dtype")
    if factors.shape != input.shape:
        raise ValueError(f"{op}: per_sample_weights is {factors.shape} but input {input.shape}; expected one shape")
    require_one_device(op, weight, factors)
    index = ops.reshape(input, -1)
    rows = ops.mul(embedding(index, weight, padding), ops.reshape(factors, (-1, 1)))
    if padding is not None:
        rows = ops.where(ops.reshape(ops.eq(index, padding), (-1, 1)), 0.0, rows)
    return sum_bags(rows, arange(index.numel(), device=input.device), offsets, bags)


def _bags(op: str, input: Tensor, offsets: Any, include_last_offset: bool) -> tuple[Tensor, int]:
    """The offsets, and how many bags they are."""
    if input.dtype.kind not in "iu":
        raise TypeError(f"{op}: input is {input.dtype}; expected integers")
    if input.ndim == 2:
        if offsets is not None:
            raise ValueError(f"{op}: input is {input.shape}, a bag a row; expected no offsets")
        return constant(input, _regular, *input.shape), input.shape[0]
    if input.ndim != 1:
        raise ValueError(f"{op}: input is {input.shape}; expected (B, L), or (M,) with offsets")
    if offsets is None:
        raise ValueError(f"{op}: input is {input.shape}; expected offsets with it, or (B, L)")
    require_tensor(op, offsets=offsets)
    if offsets.dtype.kind not in "iu":
        raise TypeError(f"{op}: offsets is {offsets.dtype}; expected integers")
    least = int(include_last_offset)
    if offsets.ndim != 1 or offsets.shape[0] < least:
        raise ValueError(f"{op}: offsets is {offsets.shape}; expected a vector of at least {least}")
    if not offsets.is_cuda:
        capture_hooks.check(_require_first, offsets, op)
    return offsets, offsets.shape[0] - least


def _require_first(offsets: Any, op: str) -> None:
    if offsets.size and offsets[0] != 0:
        raise ValueError(f"{op}: offsets[0] is {offsets[0]}; expected 0")


def _regular(bags: int, each: int) -> np.ndarray:
    return np.arange(bags + 1) * each


def padding_row(op: str, padding_idx: Any, rows: int) -> int | None:
    """padding_idx counted from the front. Raises ValueError if there is no such row."""
    if padding_idx is None:
        return None
    if not is_int(padding_idx):
        raise TypeError(f"{op}: padding_idx is {padding_idx!r}; expected an int or None")
    if not -rows <= padding_idx < rows:
        raise ValueError(f"{op}: padding_idx is {padding_idx}; expected {-rows} <= padding_idx < {rows}")
    return int(padding_idx) % rows
