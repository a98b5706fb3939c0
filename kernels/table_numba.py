"""One launch for a list of tensors of any sizes, in Numba-CUDA: a table in device memory, a column for each tensor.

    blocks of the grid       0 1 2 3 | 4 | 5 6 7 ...              table, int64   tensor 0   1   2
    the tensor they are of   0 0 0 0 | 1 | 2 2 2                  first block           0   4   5
                                                                  elements              ..  ..  ..
                                                                  address of array 0    ..  ..  ..

A block finds its column by a binary search along row 0, a few loads that all of its threads share and that stay in the
caches, and makes arrays of the addresses (simt.array_at).

Why a table, what fills it and how long it is remembered: as table_triton.py. A kernel writes it, of which its numbers
are arguments, so that nothing waits for a copy from host memory; it is remembered by all that is in it and by the
stream, so that a steady step of training costs one look-up in a dict; while a stream is captured the graph fills a
table of its own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from kernels import gpu
from kernels.launch_numba import cdiv, is_recording, kernel
from kernels.simt import device

_REMEMBERED = 64  # tables
_FILLED = 32  # numbers in one launch


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
    """table: at least at + 32 numbers, of which those from `at` on are written. One thread."""
    table[at + 0], table[at + 1], table[at + 2], table[at + 3] = n0, n1, n2, n3
    table[at + 4], table[at + 5], table[at + 6], table[at + 7] = n4, n5, n6, n7
    table[at + 8], table[at + 9], table[at + 10], table[at + 11] = n8, n9, n10, n11
    table[at + 12], table[at + 13], table[at + 14], table[at + 15] = n12, n13, n14, n15
    table[at + 16], table[at + 17], table[at + 18], table[at + 19] = n16, n17, n18, n19
    table[at + 20], table[at + 21], table[at + 22], table[at + 23] = n20, n21, n22, n23
    table[at + 24], table[at + 25], table[at + 26], table[at + 27] = n24, n25, n26, n27
    table[at + 28], table[at + 29], table[at + 30], table[at + 31] = n28, n29, n30, n31
# fmt: on


_tables: dict[Any, Table] = {}


def table_of(rows: tuple[tuple[int, ...], ...], size: int) -> Table:
    """The table for blocks of `size` elements.

    rows   for each tensor its number of elements, at least 1, and the addresses of its arrays
    """
    stream = _stream()
    if stream is None:
        return _filled(rows, size)
    key = stream, size, rows
    table = _tables.get(key)
    if table is None:
        if len(_tables) >= _REMEMBERED:
            _tables.pop(next(iter(_tables)), None)  # the oldest
        table = _tables[key] = _filled(rows, size)
    return table


def _filled(rows: tuple[tuple[int, ...], ...], size: int) -> Table:
    firsts, blocks = [], 0
    for elements, *_ in rows:
        firsts.append(blocks)
        blocks += cdiv(elements, size)
    numbers = [*firsts, *(number for column in zip(*rows, strict=True) for number in column)]
    count = len(numbers)
    numbers += [0] * (-count % _FILLED)
    array = gpu.xp().empty(len(numbers), np.int64)
    for at in range(0, len(numbers), _FILLED):
        _fill_kernel((1,), (1,), array, at, *numbers[at : at + _FILLED])
    return Table(array[:count].reshape(-1, len(rows)), blocks)


def _stream() -> int | None:
    """The current stream; None where a table must not be remembered: the stream is captured, or launches recorded."""
    if is_recording():
        return None
    cuda = getattr(gpu.xp(), "cuda", None)
    if cuda is None:
        return 0  # the simulated device has one
    stream = cuda.get_current_stream()
    return None if stream.is_capturing() else stream.ptr
