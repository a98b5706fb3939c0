"""Elements at places, and elements in order."""

from __future__ import annotations

from typing import Any

import tilegrad as tg
from tilegrad import dtypes
from tilegrad.keras.backend.core.convert import convert_to_tensor
from tilegrad.keras.backend.operands import counted
from tilegrad.ops.operands import normalize_axis
from tilegrad.tensor import Tensor


def take(x: Any, indices: Any, axis: int | None = None) -> Tensor:
    """The entries along an axis at these places, which may count from the end; of the flattened tensor without one."""
    x, at = convert_to_tensor(x), convert_to_tensor(indices)
    x, d = (x.reshape(-1), 0) if axis is None else (x, normalize_axis("take", axis, x.ndim))
    at = at.long() if at.dtype.kind not in "iu" else at
    return x[(slice(None),) * d + (at,)]


def take_along_axis(x: Any, indices: Any, axis: int | None = None) -> Tensor:
    """Along an axis, for each position the element at the place that indices has there."""
    x, at = convert_to_tensor(x), convert_to_tensor(indices)
    n = x.numel() if axis is None else x.shape[axis]
    at = tg.where(at < 0, at + n, at)
    return tg.take_along_dim(x, at, axis)


def sort(x: Any, axis: int | None = -1) -> Tensor:
    """In ascending order; flattened without an axis."""
    x = convert_to_tensor(x)
    return tg.sort(x.reshape(-1) if axis is None else x, -1 if axis is None else axis)[0]


def argsort(x: Any, axis: int | None = -1) -> Tensor:
    """The places in ascending order, equal ones in theirs; int32."""
    x = convert_to_tensor(x)
    return counted(tg.argsort(x.reshape(-1) if axis is None else x, -1 if axis is None else axis))


def nonzero(x: Any) -> tuple[Tensor, ...]:
    """The places that are not 0, a vector a dimension; int32."""
    return tuple([counted(at) for at in tg.nonzero(convert_to_tensor(x) != 0, as_tuple=True)])


def searchsorted(sorted_sequence: Any, values: Any, side: str = "left") -> Tensor:
    """Where values would go in a sorted vector: before equal ones, or behind them; int32."""
    row, values = convert_to_tensor(sorted_sequence), convert_to_tensor(values)
    if row.ndim != 1:
        raise ValueError(f"searchsorted: the sequence is {row.shape}; expected one dimension")
    before = row < values.unsqueeze(-1) if side == "left" else row <= values.unsqueeze(-1)
    return tg.sum(before, -1).to(dtypes.int32)


def digitize(x: Any, bins: Any) -> Tensor:
    """In which of the ascending bins; int32."""
    return searchsorted(bins, x, "right")


def isin(x1: Any, x2: Any, assume_unique: bool = False, invert: bool = False) -> Tensor:
    """Where x1 is one of x2."""
    found = tg.any(convert_to_tensor(x1).unsqueeze(-1) == convert_to_tensor(x2).reshape(-1), -1)
    return tg.logical_not(found) if invert else found
