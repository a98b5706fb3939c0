"""Parts of tensors at places that may be values: slices, scattered entries, entries along an axis."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Any

import numpy as np

import tilegrad as tg
from tilegrad.keras.backend.core.convert import convert_to_numpy, convert_to_tensor
from tilegrad.keras.backend.hosted import like, undifferentiated
from tilegrad.tensor import Tensor


def slice(inputs: Any, start_indices: Any, shape: Sequence[int]) -> Tensor:
    """The part of that shape from start_indices on; -1 in the shape is all that follows."""
    x, starts = convert_to_tensor(inputs), _numbers(start_indices)
    return x[tuple(builtins.slice(i, x.shape[d] if n == -1 else i + n) for d, (i, n) in enumerate(zip(starts, shape)))]


def slice_update(inputs: Any, start_indices: Any, updates: Any) -> Tensor:
    """inputs, with updates from start_indices on."""
    x, updates, starts = convert_to_tensor(inputs), convert_to_tensor(updates), _numbers(start_indices)
    y = x.clone()
    y[tuple(builtins.slice(i, i + n) for i, n in zip(starts, updates.shape))] = updates.to(x.dtype)
    return y


_OF_TWO = {"max": np.maximum, "min": np.minimum, "mul": np.multiply}


def scatter(indices: Any, values: Any, shape: Sequence[int]) -> Tensor:
    """Zeros of that shape, to which values are added at the places that the last dimension of indices says."""
    values = convert_to_tensor(values)
    zeros = tg.zeros(*shape, dtype=values.dtype, device=values.device)
    return scatter_update(zeros, indices, values, reduction="add")


def scatter_update(inputs: Any, indices: Any, updates: Any, reduction: str | None = None) -> Tensor:
    """inputs, with updates at the places that the last dimension of indices says.

    reduction  None puts them there (of several for one place, the last); "add", "max", "min" and "mul" combine them,
               the last three without a gradient
    """
    x, at, updates = convert_to_tensor(inputs), convert_to_tensor(indices), convert_to_tensor(updates)
    depth, rest = at.shape[-1], x.shape[at.shape[-1] :]
    rows = x.reshape(-1, *rest)
    strides = [1] * depth
    for d in reversed(range(depth - 1)):
        strides[d] = strides[d + 1] * x.shape[d + 1]
    flat = sum_of([_counted(at[..., d], x.shape[d]) * strides[d] for d in range(depth)]).reshape(-1)
    updates = updates.reshape(-1, *rest).to(x.dtype)
    index = flat.reshape(-1, *[1] * len(rest)).expand(flat.shape[0], *rest)
    if reduction is None:
        y = rows.scatter(0, index, updates)
    elif reduction == "add":
        y = rows.scatter_add(0, index, updates)
    elif reduction in _OF_TWO:
        host = convert_to_numpy(rows)
        _OF_TWO[reduction].at(host, convert_to_numpy(flat), convert_to_numpy(updates))
        y = undifferentiated(f"scatter_update, {reduction}", like(host, x), [rows, updates])
    else:
        raise ValueError(f"scatter_update: reduction is {reduction!r}; expected None, 'add', 'max', 'min' or 'mul'")
    return y.reshape(x.shape)


def unstack(x: Any, num: int | None = None, axis: int = 0) -> tuple[Tensor, ...]:
    """The entries along an axis."""
    return convert_to_tensor(x).unbind(axis)


def sum_of(tensors: list[Tensor]) -> Tensor:
    """All of them, added."""
    total = tensors[0]
    for x in tensors[1:]:
        total = total + x
    return total


def _counted(at: Tensor, size: int) -> Tensor:
    """Indices from the end as those from the beginning."""
    at = at.long()
    return tg.where(at < 0, at + size, at)


def _numbers(indices: Any) -> list[int]:
    if isinstance(indices, (list, tuple)) and all(isinstance(i, int) for i in indices):
        return list(indices)
    return [int(i) for i in convert_to_numpy(indices)]
