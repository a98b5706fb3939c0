"""One launch for a list of tensors of any sizes, in Numba-CUDA: a table in device memory, a column for each tensor.

    blocks of the grid       0 1 2 3 | 4 | 5 6 7 ...              table, int64   tensor 0   1   2
    the tensor they are of   0 0 0 0 | 1 | 2 2 2                  first block           0   4   5
                                                                  elements              ..  ..  ..
                                                                  address of array 0    ..  ..  ..

A block finds its column by a binary search along row 0, a few loads that all of its threads share and that stay in the
caches, and makes arrays of the addresses (launch/numba_target.py).

Why a table, what fills it and how long it is remembered: as multi_tensor/gpu_triton.py. A kernel writes it, whose
arguments are its numbers, so that nothing waits for a copy from host memory. It is remembered by all that is in it and
by the stream, so that a steady step of training costs one look-up in a dict. A graph that is captured has a table of
its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch.numba_kernel import is_collecting, kernel
from tilegrad.kernels.launch.numba_target import device
from tilegrad.kernels.multi_tensor.arrays import Arrays, Rows, Tables, columns

_FILLED = 32  # numbers in one launch
_ELEMENTS = {"e": np.float16, "f": np.float32}  # by the dtype's char


class Table(NamedTuple):
    """What a kernel is launched with: `blocks` of them, and `array` (2 + arrays, tensors) as its argument."""

    array: Any
    blocks: int


@device
def find(table, block):
    """The column of the tensor that this block is of: the last that begins no later."""
    column, beyond = 0, table.shape[1]
    while beyond - column > 1:
        middle = (column + beyond) // 2
        if table[0, middle] <= block:
            column = middle
        else:
            beyond = middle
    return column


# fmt: off
@kernel
def _fill_kernel(
    table, at,
    n0, n1, n2, n3, n4, n5, n6, n7, n8, n9, n10, n11, n12, n13, n14, n15,
    n16, n17, n18, n19, n20, n21, n22, n23, n24, n25, n26, n27, n28, n29, n30, n31,
):
    """table: at least at + 32 numbers; those from `at` on are written. One thread."""
    table[at + 0], table[at + 1], table[at + 2], table[at + 3] = n0, n1, n2, n3
    table[at + 4], table[at + 5], table[at + 6], table[at + 7] = n4, n5, n6, n7
    table[at + 8], table[at + 9], table[at + 10], table[at + 11] = n8, n9, n10, n11
    table[at + 12], table[at + 13], table[at + 14], table[at + 15] = n12, n13, n14, n15
    table[at + 16], table[at + 17], table[at + 18], table[at + 19] = n16, n17, n18, n19
    table[at + 20], table[at + 21], table[at + 22], table[at + 23] = n20, n21, n22, n23
    table[at + 24], table[at + 25], table[at + 26], table[at + 27] = n24, n25, n26, n27
    table[at + 28], table[at + 29], table[at + 30], table[at + 31] = n28, n29, n30, n31
# fmt: on


def _fill(rows: Rows, size: int) -> Table:
    numbers, blocks = columns(rows, size)
    count = len(numbers)
    numbers += [0] * (-count % _FILLED)
    array = gpu.xp().empty(len(numbers), np.int64)
    for at in range(0, len(numbers), _FILLED):
        _fill_kernel((1,), (1,), array, at, *numbers[at : at + _FILLED])
    return Table(array[:count].reshape(-1, len(rows)), blocks)


TABLES = Tables(_fill, is_collecting)


def tables(tensors: Sequence[Arrays], block: int) -> list[tuple[Table, type]]:
    """A table for each launch that these tensors need, with the type of their elements.

    tensors  for each its arrays, the first of which says its dtype; all are dense
    """
    rows: dict[str, list[tuple[int, ...]]] = {}
    for arrays in tensors:
        rows.setdefault(arrays[0].dtype.char, []).append((arrays[0].size, *(a.data.ptr for a in arrays)))
    return [(TABLES.of(tuple(group), block), _ELEMENTS[char]) for char, group in rows.items()]
