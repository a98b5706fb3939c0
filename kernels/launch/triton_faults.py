"""Noting a fault from inside a Triton kernel, as kernels/launch/faults.py reads it."""

from __future__ import annotations

import triton
import triton.language as tl

from tilegrad.kernels.launch.faults import ROW_SHIFT, VALUE_OFFSET

_ROW_SHIFT: tl.constexpr = tl.constexpr(ROW_SHIFT)
_LEAST: tl.constexpr = tl.constexpr(-VALUE_OFFSET)
_MOST: tl.constexpr = tl.constexpr(VALUE_OFFSET - 1)
_VALUE_OFFSET: tl.constexpr = tl.constexpr(VALUE_OFFSET)


@triton.jit
def note(fault_ptr, row, value, is_fault):
    """Note the rows where is_fault holds, with their values; row and value are blocks of int64, fault_ptr is a slot."""
    told = tl.minimum(tl.maximum(value, _LEAST), _MOST) + _VALUE_OFFSET
    tl.atomic_min(fault_ptr + row * 0, (row << _ROW_SHIFT) | told, mask=is_fault, sem="relaxed")
