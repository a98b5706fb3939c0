"""Noting a fault from inside a Numba kernel, as kernels/launch/faults.py reads it."""

from __future__ import annotations

from numpy import int64

from tilegrad.kernels.launch.faults import ROW_SHIFT, VALUE_OFFSET
from tilegrad.kernels.launch.numba_target import cuda, device

_ROW_SHIFT, _VALUE_OFFSET = int64(ROW_SHIFT), int64(VALUE_OFFSET)
_LEAST, _MOST = int64(-VALUE_OFFSET), int64(VALUE_OFFSET - 1)


@device
def note(fault, row, value):
    """Note this row with its value; fault is a slot."""
    told = min(max(int64(value), _LEAST), _MOST) + _VALUE_OFFSET
    cuda.atomic.min(fault, 0, (int64(row) << _ROW_SHIFT) | told)
