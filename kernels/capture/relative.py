"""Arrays whose memory has its place later: at a launch, or when a capture has ended."""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import numpy as np

from tilegrad.kernels.capture.extents import address, extent


class Relative(NamedTuple):
    """An array as it lies from an address on.

    low     where its first byte lies, counted from there
    memory  the type of so many bytes
    """

    low: int
    memory: Any
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int
    strides: tuple[int, ...]
    writeable: bool

    def at(self, start: int) -> np.ndarray:
        """The array, from that address on; it does not keep its memory."""
        memory = self.memory.from_address(start + self.low)
        array = np.ndarray(self.shape, self.dtype, memory, self.offset, self.strides)
        if not self.writeable:
            array.flags.writeable = False
        return array


def relative(array: np.ndarray, start: int) -> Relative:
    """The array as it lies from that address on."""
    low, size = extent(array)
    behind = address(array) - start
    memory = ctypes.c_char * size
    return Relative(behind + low, memory, array.shape, array.dtype, -low, array.strides, array.flags.writeable)
