"""Numbers of the host that a CUDA graph reads in device memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from tilegrad.kernels.device import gpu

_SLOTS = 512  # in one block of memory, 8 KB: so little goes with the command that copies it
_SLOT = 16  # bytes: every slot has the alignment that kernels are compiled for


class Slots:
    """Device memory for such numbers, and their values on the host: `send` them before a launch."""

    def __init__(self) -> None:
        self._blocks: list[tuple[Any, np.ndarray, int]] = []  # on the device, on the host, and the address there
        self._used = _SLOTS

    def take(self, dtype: Any, shape: tuple[int, ...] = ()) -> tuple[Any, np.ndarray]:
        """(an array of at most 16 bytes in device memory, the host's array that is sent there)."""
        if self._used == _SLOTS:
            size = _SLOTS * _SLOT
            host = np.zeros(size, np.uint8)
            self._blocks.append((gpu.xp().empty(size, np.uint8), host, host.ctypes.data))
            self._is_simulated = gpu.is_simulated()
            self._used = 0
        start = self._used * _SLOT
        stop = start + int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        assert stop <= start + _SLOT, f"a slot has {_SLOT} bytes"
        self._used += 1
        device, host = (memory[start:stop].view(dtype).reshape(shape) for memory in self._blocks[-1][:2])
        return device, host

    def send(self) -> None:
        """Copy the host's values, in order with what the current stream was told; nobody waits."""
        last = len(self._blocks) - 1
        for i, (device, host, address) in enumerate(self._blocks):
            n = self._used * _SLOT if i == last else host.size
            if self._is_simulated:
                device[:n].set(host[:n])
            else:
                # From memory that is not pinned: such a copy is staged before the call returns, and waits for nothing
                # (CUDA Runtime API, "API synchronization behavior"). So the host may write the next values at once.
                device.data.copy_from_host_async(address, n)
