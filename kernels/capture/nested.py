"""Arrays in nested lists, tuples and dicts: the arguments of ops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np


def arrays_in(x: Any) -> Iterator[np.ndarray]:
    """The arrays in x."""
    if isinstance(x, np.ndarray):
        yield x
    elif type(x) in (list, tuple, dict):
        for item in x.values() if type(x) is dict else x:
            yield from arrays_in(item)


def mapped(x: Any, kind: type, function: Callable[[Any], Any]) -> Any:
    """x with function(item) in place of each item of that kind."""
    if isinstance(x, kind):
        return function(x)
    if type(x) in (list, tuple):
        return type(x)([mapped(item, kind, function) for item in x])
    if type(x) is dict:
        return {key: mapped(item, kind, function) for key, item in x.items()}
    return x
