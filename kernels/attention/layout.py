"""In which memory order results are made: that of the argument which they stand for.

A layer's heads are mostly views (B, H, L, E) of memory (B, L, H, E). A result of that order is (B, L, H E) without a
copy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def empty_as(x: Any, width: int, empty: Callable[[tuple[int, ...]], Any]) -> Any:
    """empty(shape) as (*x.shape[:3], width), the last axis dense, the others in the order that x has them in memory."""
    first, second, third = sorted(range(3), key=lambda axis: -abs(x.strides[axis]))
    made = empty((x.shape[first], x.shape[second], x.shape[third], width))
    places = [0, 0, 0]
    places[first], places[second], places[third] = 0, 1, 2
    return made.transpose(*places, 3)
