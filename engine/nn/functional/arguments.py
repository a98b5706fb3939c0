"""Checks of the arguments that layers and functions share: sizes, pairs, probabilities, shapes of images."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilegrad.tensor import Tensor


def is_int(value: Any) -> bool:
    """Whether the value is an integer and not a bool, which Python counts as one."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def size(op: str, name: str, value: Any, least: int = 0) -> int:
    """The value as an int. Raises TypeError for anything else, ValueError if it is below `least`."""
    if not is_int(value):
        raise TypeError(f"{op}: {name} is {value!r}; expected an int")
    if value < least:
        raise ValueError(f"{op}: {name} is {value}; expected >= {least}")
    return int(value)


def sizes(value: Any) -> tuple[Any, ...]:
    """(n,) from n, and a sequence as a tuple."""
    return (value,) if is_int(value) else tuple(value)


def pair(op: str, name: str, value: Any, least: int = 0) -> tuple[int, int]:
    """(height, width) from two ints, or from one, which stands for both. Raises as `size` does."""
    if type(value) is tuple and len(value) == 2:  # a short way for what layers have made of it
        height, width = value
        if type(height) is int is type(width) and height >= least <= width:
            return value
    if isinstance(value, (tuple, list)):
        if len(value) == 1:
            value = value * 2
        if len(value) != 2 or not all(map(is_int, value)):
            raise TypeError(f"{op}: {name} is {value!r}; expected an int, or one or two of them (height, width)")
        if min(value) < least:
            raise ValueError(f"{op}: {name} is {tuple(value)}; expected both >= {least}")
        return int(value[0]), int(value[1])
    both = size(op, name, value, least)
    return both, both


def single(op: str, name: str, value: Any, least: int = 0) -> int:
    """n from n or (n,). Raises as `size`."""
    return size(op, name, value[0] if isinstance(value, (tuple, list)) and len(value) == 1 else value, least)


def probability(op: str, p: Any) -> float:
    """p itself. Raises TypeError unless it is a number, ValueError unless 0 <= p <= 1."""
    if isinstance(p, bool) or not isinstance(p, (int, float, np.number)):
        raise TypeError(f"{op}: p is {p!r}; expected a number")
    if not 0 <= p <= 1:
        raise ValueError(f"{op}: p is {p}; expected 0 <= p <= 1")
    return p  # type: ignore[return-value]  (NumPy's numbers do as a float)


def one_of(op: str, name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """Raise ValueError unless the value is one of those allowed."""
    if value not in allowed:
        raise ValueError(f"{op}: {name} is {value!r}; expected one of {', '.join(map(repr, allowed))}")


def require_tensor(op: str, **tensors: Any) -> None:
    """Raise TypeError unless all are tensors."""
    for name, x in tensors.items():
        if not isinstance(x, Tensor):
            raise TypeError(f"{op}: {name} is {type(x).__name__}; expected a tensor")


def require_images(op: str, input: Any) -> None:
    """Raise TypeError unless input is a tensor, ValueError unless it is (N, C, H, W) or (C, H, W)."""
    require_tensor(op, input=input)
    if input.ndim not in (3, 4):
        raise ValueError(f"{op}: input is {input.shape}; expected (N, C, H, W) or (C, H, W)")
