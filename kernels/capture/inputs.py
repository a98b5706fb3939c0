"""The arguments of a captured step on the CPU: memory that stands for them while it is captured, and what puts the
arguments of a launch in its place.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tilegrad.kernels.capture.extents import address, extent
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
    """An array on an input's memory, wherever that is at a launch.

    number  of the input
    low     where the array's first byte lies, counted from the input's first element
    memory  the type of so many bytes
    """

    number: int
    low: int
    memory: Any
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int
    strides: tuple[int, ...]
    writeable: bool

    def at(self, start: int) -> np.ndarray:
        """The array, with the input's first element at that address."""
        memory = self.memory.from_address(start + self.low)
        array = np.ndarray(self.shape, self.dtype, memory, self.offset, self.strides)
        if not self.writeable:
            array.flags.writeable = False
        return array


def on_input(array: np.ndarray, number: int, first_element: int) -> OnInput:
    """The array as one on the memory of that input, whose first element is at that address."""
    low, size = extent(array)
    behind = address(array) - first_element
    memory = ctypes.c_char * size
    return OnInput(number, behind + low, memory, array.shape, array.dtype, -low, array.strides, array.flags.writeable)


def without_owner(array: np.ndarray) -> np.ndarray:
    """An array on the same memory that does not keep it."""
    return on_input(array, -1, address(array)).at(address(array))


def placing(x: Any) -> Callable[[list[int]], Any] | None:
    """What gives x with arrays for its `OnInput`s, from the addresses of the inputs; None if x has none."""
    if isinstance(x, OnInput):
        return lambda addresses: x.at(addresses[x.number])
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
