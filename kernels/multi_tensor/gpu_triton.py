"""One launch for a list of tensors of any sizes: a table in device memory says what each program works on.

The table has a column for each tensor: its first program, its size, and the addresses of its arrays, as int64.
A program finds its tensor among the first programs all at once (one load of at most 8 KB, which stays in cache, and one
reduction), then reads the addresses.

Addresses change: gradients are allocated anew at every step, though mostly at the same few places, which a memory pool
gives back. So a table is remembered by all that is in it and by the stream that filled it: a steady step of training
costs one look-up in a dict. It is filled by a kernel whose arguments are its numbers, 64 a launch. A copy from host
memory would have to wait for the stream, or its source to outlive every CUDA graph that captured it; and addresses as
arguments of the kernel that uses them would be 128 arguments and a chain of selections for 32 parameters of Adam.

A graph that is captured has a table of its own (kernels/multi_tensor/arrays.py): none can be forgotten, and its memory
be used for something else, while a graph still reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import triton
import triton.language as tl

from tilegrad.kernels.checks import bfloat16
from tilegrad.kernels.device import gpu
from tilegrad.kernels.launch.triton_kernel import is_collecting, kernel
from tilegrad.kernels.multi_tensor.arrays import Arrays, Rows, Tables, columns
from tilegrad.kernels.sizes import next_power_of_2

MOST_TENSORS = 1024  # that one launch looks among
_LEAST_TENSORS = 128  # fewer are looked among as fast, and every power of two is a compilation
_FILLED = 64  # numbers in one launch
_ELEMENTS = {"e": tl.float16, bfloat16.char: tl.bfloat16, "f": tl.float32}  # by the dtype's char

# A launch is specialised on numbers that are 1, that 16 divides or that need 64 bits (launch/triton_kernel.py). Those
# for the table are made all of one kind: shifted by 4 bits, with bit 62 set.
_SHIFT: tl.constexpr = tl.constexpr(4)
_MARK: tl.constexpr = tl.constexpr(1 << 62)


class Table(NamedTuple):
    """What a kernel is launched with: `programs` of them, and `array`, `tensors`, `TENSORS` as arguments."""

    array: Any
    tensors: int
    TENSORS: int
    programs: int


@triton.jit
def find(table_ptr, tensors, TENSORS: tl.constexpr, BLOCK: tl.constexpr):
    """(the column of this program's tensor, the first element of its block, how many there are from that one on)."""
    program = tl.program_id(0)
    place = tl.arange(0, TENSORS)
    listed = place < tensors
    begun = listed & (tl.load(table_ptr + place, mask=listed, other=0) <= program)
    column_ptr = table_ptr + (tl.sum(begun.to(tl.int32), axis=0) - 1)
    start = (program - tl.load(column_ptr)) * BLOCK
    return column_ptr, start, tl.load(column_ptr + tensors) - start


@triton.jit
def pointer(column_ptr, tensors, NUMBER: tl.constexpr, ELEMENT: tl.constexpr, ALIGNED: tl.constexpr):
    """To the tensor's array of that number, of dtype ELEMENT; ALIGNED says that 16 divides its address."""
    array_ptr = tl.load(column_ptr + tensors * (NUMBER + 2)).to(tl.pointer_type(ELEMENT))
    if ALIGNED:
        array_ptr = tl.multiple_of(array_ptr, 16)  # only then loads vectorise
    return array_ptr


# fmt: off
@kernel
def _fill_kernel(
    table_ptr, at,
    n0, n1, n2, n3, n4, n5, n6, n7, n8, n9, n10, n11, n12, n13, n14, n15,
    n16, n17, n18, n19, n20, n21, n22, n23, n24, n25, n26, n27, n28, n29, n30, n31,
    n32, n33, n34, n35, n36, n37, n38, n39, n40, n41, n42, n43, n44, n45, n46, n47,
    n48, n49, n50, n51, n52, n53, n54, n55, n56, n57, n58, n59, n60, n61, n62, n63,
):
    """table: at least at + 64 numbers of 64 bits; those from `at` on are written."""
    numbers = (
        n0, n1, n2, n3, n4, n5, n6, n7, n8, n9, n10, n11, n12, n13, n14, n15,
        n16, n17, n18, n19, n20, n21, n22, n23, n24, n25, n26, n27, n28, n29, n30, n31,
        n32, n33, n34, n35, n36, n37, n38, n39, n40, n41, n42, n43, n44, n45, n46, n47,
        n48, n49, n50, n51, n52, n53, n54, n55, n56, n57, n58, n59, n60, n61, n62, n63,
    )
    for i in tl.static_range(64):
        tl.store(table_ptr + at + i, (numbers[i] ^ _MARK) >> _SHIFT)
# fmt: on


def _fill(rows: Rows, block: int) -> Table:
    """rows: at most MOST_TENSORS."""
    numbers, programs = columns(rows, block)
    numbers += [0] * (-len(numbers) % _FILLED)
    marked = [number << _SHIFT.value | _MARK.value for number in numbers]
    array = gpu.xp().empty(len(numbers), np.int64)
    for at in range(0, len(numbers), _FILLED):
        _fill_kernel((1,), array, at, *marked[at : at + _FILLED], num_warps=1)
    return Table(array, len(rows), max(_LEAST_TENSORS, next_power_of_2(len(rows))), programs)


TABLES = Tables(_fill, is_collecting)


def tables(tensors: Sequence[Arrays], block: int) -> list[tuple[Table, dict[str, Any]]]:
    """A table for each launch that these tensors need, with its constexprs, those of `find` and `pointer`.

    tensors  for each its arrays, the first of which says its dtype; all are dense
    """
    rows: dict[tuple[str, bool], list[tuple[int, ...]]] = {}
    for arrays in tensors:
        addresses = [a.data.ptr for a in arrays]
        aligned = not any([address % 16 for address in addresses])
        rows.setdefault((arrays[0].dtype.char, aligned), []).append((arrays[0].size, *addresses))
    found = []
    for (char, aligned), group in rows.items():
        for i in range(0, len(group), MOST_TENSORS):
            table = TABLES.of(tuple(group[i : i + MOST_TENSORS]), block)
            constexprs = {"ELEMENT": _ELEMENTS[char], "ALIGNED": aligned, "TENSORS": table.TENSORS, "BLOCK": block}
            found.append((table, constexprs))
    return found
