"""Rows of a table by their index."""

from __future__ import annotations

from typing import Any

from tilegrad import ops
from tilegrad.autograd.record import record
from tilegrad.nn.functional.arguments import is_int, require_tensor
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


def padding_row(op: str, padding_idx: Any, rows: int) -> int | None:
    """padding_idx counted from the front. Raises ValueError if there is no such row."""
    if padding_idx is None:
        return None
    if not is_int(padding_idx):
        raise TypeError(f"{op}: padding_idx is {padding_idx!r}; expected an int or None")
    if not -rows <= padding_idx < rows:
        raise ValueError(f"{op}: padding_idx is {padding_idx}; expected {-rows} <= padding_idx < {rows}")
    return int(padding_idx) % rows
