"""The arguments of a captured step on the CPU: memory that stands for them while it is captured, and what puts the
arguments of a launch in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tilegrad.kernels.capture.extents import extent
from tilegrad.kernels.capture.relative import Relative
from tilegrad.kernels.cpu import buffers


class Input:
    """Memory that stands for an argument while a program is captured, laid out as that is.

    own    an array on it, which can be written to; None, as the memory, once neither is needed
    low    where the first byte lies, counted from the first element
    size   bytes from the first to the last
    fixed  whether somebody else keeps it: then each launch copies the argument there
    moves  in calls: (calls, place, offset), where the argument's address belongs, with an offset
    start  the address that is there
    """

    def __init__(self, argument: np.ndarray) -> None:
        self.low, self.size = extent(argument)
        self.memory: Any = np.empty(self.size + 2 * buffers.LINE, np.uint8)
        start = -self.memory.ctypes.data % buffers.LINE + (not argument.flags.aligned)
        self.own: Any = np.ndarray(argument.shape, argument.dtype, self.memory, start - self.low, argument.strides)
        np.copyto(self.own, argument)
        self.fixed = False
        self.written = False
        self.moves: list[tuple[memoryview, int, int]] = []
        self.start = 0

    def free(self) -> None:
        """The program is captured."""
        if not self.fixed:
            self.own = self.memory = None


class OnInput(NamedTuple):
    """An array on the memory of an input, which is somewhere else at a launch.

    number  of the input
    array   as it lies from the input's first element on
    """

    number: int
    array: Relative


def placing(x: Any) -> Callable[[list[int]], Any] | None:
    """What gives x with arrays for its `OnInput`s, from the addresses of the inputs; None if x has none."""
    if isinstance(x, OnInput):
        return lambda addresses: x.array.at(addresses[x.number])
    kind = type(x)
    if kind not in (list, tuple, dict):
        return None
    parts = [(key, placing(x[key])) for key in (x if kind is dict else range(len(x)))]
    parts = [(key, place) for key, place in parts if place is not None]

    def placed(addresses: list[int]) -> Any:
        items = dict(x) if kind is dict else list(x)
        for key, place in parts:
            items[key] = place(addresses)
        return tuple(items) if kind is tuple else items

    return placed if parts else None
