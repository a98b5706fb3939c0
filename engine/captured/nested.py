"""Tensors in nested tuples, lists and dicts: the arguments and results of a captured function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tilegrad.ops.shape import stack
from tilegrad.tensor import Tensor


def structure_of(x: Any, tensors: list[Tensor]) -> Any:
    """x with None for each tensor, hashable; the tensors are appended to the list."""
    if isinstance(x, Tensor):
        tensors.append(x)
        return None
    if type(x) in (tuple, list) or (isinstance(x, tuple) and hasattr(x, "_fields")):
        return (type(x), *[structure_of(item, tensors) for item in x])
    if type(x) is dict:
        return (dict, *[(key, structure_of(item, tensors)) for key, item in x.items()])
    try:
        hash(x)
    except TypeError:
        raise TypeError(f"capture: an argument is a {type(x).__name__}; expected tensors and hashable values") from None
    return type(x), x


def mapped(x: Any, function: Callable[[Tensor], Any]) -> Any:
    """x with function(tensor) in place of each tensor."""
    if isinstance(x, Tensor):
        return function(x)
    if type(x) in (tuple, list):
        return type(x)([mapped(item, function) for item in x])
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return type(x)(*[mapped(item, function) for item in x])
    if type(x) is dict:
        return {key: mapped(item, function) for key, item in x.items()}
    return x


def tensors_in(x: Any) -> list[Tensor]:
    found: list[Tensor] = []

    def noted(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    mapped(x, noted)
    return found


def stacked(results: list[Any]) -> Any:
    """The results of several calls as one, whose tensors have the calls along a new first dimension."""
    columns = zip(*map(tensors_in, results))
    stacked = iter([stack(list(column)) for column in columns])
    return mapped(results[0], lambda _: next(stacked))
