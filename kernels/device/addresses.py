"""How wide the numbers of a kernel's addresses are: 32 bits, which are faster, or 64.

What counts is how far apart the elements lie that are addressed, not how many there are: `images[:, :1]` of a large
array is few elements, far apart. Kernels also count a tile beyond the last element, which must not come out negative.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

TILE = 1 << 16  # elements: more than any kernel's tile has along an axis
NARROW = 2**31 - TILE  # elements from which 32 bits do not do


def fits(number: int) -> bool:
    """Whether a size, a stride or an offset is a number of 32 bits, a tile beyond it too."""
    return -NARROW < number < NARROW


def are_wide(*arrays: Any) -> bool:
    """Whether offsets into one of these arrays need 64 bits; None is left out."""
    return any([a is not None and not fits(span(a.shape, a.strides, a.itemsize)) for a in arrays])


@lru_cache(maxsize=4096)
def span(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> int:
    """Elements from the first of an array to its last in memory, its strides (in bytes) being what they are."""
    if 0 in shape:
        return 0
    return sum((n - 1) * abs(stride) for n, stride in zip(shape, strides, strict=True)) // itemsize + 1
