"""Faults in what a kernel was given, such as a label that no class has: found on the device, raised on the host later.

If the host waited for each check, the stream would stop at every step. So a kernel that meets a fault goes on with NaN,
and notes it in a *slot* of device memory; where the host waits anyway (to read a loss), `raise_pending` is called. The
host keeps what a slot stands for: an error, and the facts that were known at the launch. All launches with the same
facts share one slot.

    slot = watch(label_error, "softmax_xent", 10, -100)     a device array of one int64, to be given to the kernel
    ...                                                     the kernel: note(slot, row, value), of triton_faults.py
    raise_pending()                                         raise label_error("softmax_xent", 10, -100, row, value)

However many launches found a fault since the last check, the error names the least row of a slot, and of several slots
the one that was watched first in this process. All slots are then cleared. This is the same on every run: a minimum
does not depend on the order of launches.

A note is 64 bits: a row below 2^31 - 1, and a value of 32 bits; a larger or smaller value is noted as the nearest one.

Launches and checks must be on one stream, or ordered by events. A slot's memory must exist before a stream is captured:
launch once before, as for compiling. A graph that has captured such a launch calls `expect` after each of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from tilegrad.kernels.capture import cuda_graph
from tilegrad.kernels.device import gpu

# A note is (row << ROW_SHIFT) | (value + VALUE_OFFSET): triton_faults.py and numba_faults.py write it.
ROW_SHIFT = 32
VALUE_OFFSET = 2**31
_CLEAR = 2**63 - 1
_SLOTS = 512  # in one block of memory
_WORDS = 2  # from slot to slot: 16 bytes, so that every slot has the alignment that kernels are compiled for

Watched = tuple[Any, ...]  # (error, *facts)


class _Block:
    """Device memory for some slots."""

    def __init__(self, xp: ModuleType) -> None:
        self.memory = xp.full((_SLOTS, _WORDS), _CLEAR, np.int64)
        self.watched: list[Watched] = []


_blocks: dict[ModuleType, list[_Block]] = {}  # by array library: a simulated device has a memory of its own
_slots: dict[tuple[Any, ...], Any] = {}
_pending = False


def watch(error: Callable[..., Exception], *facts: Any) -> Any:
    """The slot for a launch, an int64 device array (1,). A fault (row, value) in it is error(*facts, row, value)."""
    global _pending
    _pending = True
    captured = cuda_graph.capturing()
    if captured is not None:
        captured.launched(expect)
    xp = gpu.xp()
    slot = _slots.get((xp, error, *facts))
    return _new_slot(xp, (error, *facts)) if slot is None else slot


def expect() -> None:
    """Make the next `raise_pending` look although no launch was watched: after the launch of a captured graph."""
    global _pending
    _pending = True


def raise_pending() -> None:
    """Raise the error of a fault that was noted since the last check.

    Waits for the current stream if a kernel that can fault was launched since; else it costs nothing.
    """
    global _pending
    if not _pending:
        return
    _pending = False
    found: list[tuple[Watched, int]] = []
    for block in _blocks.get(gpu.xp(), ()):
        notes = block.memory[: len(block.watched)].get()[:, 0].tolist()
        faults = [(watched, note) for watched, note in zip(block.watched, notes, strict=True) if note != _CLEAR]
        if faults:
            block.memory.fill(_CLEAR)
            found += faults
    if found:
        (error, *facts), note = found[0]
        raise error(*facts, note >> ROW_SHIFT, (note & (1 << ROW_SHIFT) - 1) - VALUE_OFFSET)


def _new_slot(xp: ModuleType, watched: Watched) -> Any:
    blocks = _blocks.setdefault(xp, [])
    if not blocks or len(blocks[-1].watched) == _SLOTS:
        with cuda_graph.aside():  # the slots are cleared now, not by every launch of a captured graph
            blocks.append(_Block(xp))
    block = blocks[-1]
    slot = _slots[(xp, *watched)] = block.memory[len(block.watched), :1]
    block.watched.append(watched)
    return slot
