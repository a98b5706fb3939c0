"""A call of a primitive by the shapes and dtypes of its arrays, which it does not keep alive."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np


class Layout(NamedTuple):
    """What stands for an array."""

    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize


class Call(NamedTuple):
    """A call: of a primitive, or of another function of arrays that has a name."""

    op: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: tuple[Layout, ...]

    @classmethod
    def of(cls, op: str, args: tuple[Any, ...], kwargs: dict[str, Any], results: Any) -> Call:
        """The call op(*args, **kwargs), which gave an array, a tuple of them, or nothing."""
        given = results if type(results) is tuple else (results,)
        found = [described(x) for x in given]
        return cls(op, described(args), described(kwargs), tuple([x for x in found if isinstance(x, Layout)]))

    def layouts(self) -> list[Layout]:
        """Of the arrays among the arguments."""
        return _layouts_in([self.args, self.kwargs])


def described(x: Any) -> Any:
    """x with a Layout in place of each array, also of those in lists, tuples and dicts."""
    kind = type(x)
    if kind in (list, tuple):
        return kind([described(item) for item in x])
    if kind is dict:
        return {key: described(item) for key, item in x.items()}
    if hasattr(x, "dtype") and hasattr(x, "shape"):
        return Layout(tuple(x.shape), x.dtype)
    return x


def key_of(x: Any) -> Any:
    """What calls of one shape have in common: layouts of arrays, tuples, names, flags. Numbers change at each step."""
    kind = type(x)
    if kind is tuple or kind is list:
        return tuple([key_of(item) for item in x])
    if kind is int or kind is float:
        return 0
    if kind is np.ndarray or hasattr(x, "dtype"):
        return x.shape, x.dtype
    return x if kind in (str, bool) or x is None else kind


def _layouts_in(x: Any) -> list[Layout]:
    if isinstance(x, Layout):
        return [x]
    if type(x) in (list, tuple, dict):
        return [layout for item in (x.values() if type(x) is dict else x) for layout in _layouts_in(item)]
    return []
