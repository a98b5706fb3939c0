"""A compiled kernel in the memory of the current GPU, launched through CuPy's driver interface.

What the kernel languages share: code (cubin, or PTX that the driver compiles) is loaded once, and a launch packs its
parameters into memory that the driver reads during the call.
"""

from __future__ import annotations

import ctypes
import struct
import threading
from collections.abc import Sequence

from tilegrad.kernels.device import gpu
from tilegrad.kernels.system import forks

_MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_STATIC_SHARED = 48 * 1024  # more must be asked for

# CUDA C++ Programming Guide, "Technical Specifications per Compute Capability": the same on every card.
MOST_ALONG = 2**31 - 1, 65535, 65535  # blocks of a grid along x, y and z

Block = tuple[int, int, int]


def check_grid(name: str, grid: tuple[int, ...]) -> None:
    """Raise ValueError where a grid has more blocks along an axis than CUDA takes; on a simulated device too."""
    for axis, (blocks, most) in enumerate(zip(grid, MOST_ALONG)):
        if blocks > most:
            raise ValueError(f"{name}: a grid of {grid} blocks; expected at most {most} along axis {axis}")


class Function:
    """A kernel that is ready to be launched.

    code     cubin or PTX
    name     of its entry
    formats  of its parameters in order, in the letters of `struct`: P a pointer, i, q, f numbers
    shared   bytes of dynamic shared memory
    """

    _lock: threading.RLock

    def __init__(self, code: bytes, name: str, formats: Sequence[str], shared: int) -> None:
        cuda = gpu.cuda()
        self._module = cuda.function.Module()  # unloads the kernel when it is collected
        self._module.load(code)
        self._function = cuda.function.Function(self._module, name).ptr
        self._shared = shared
        if shared > _STATIC_SHARED:
            cuda.driver.funcSetAttribute(self._function, _MAX_DYNAMIC_SHARED, shared)
        self._driver_launch = cuda.driver.launchKernel
        self._stream = cuda.get_current_stream

        # The driver reads the parameters during the call, so that one block of memory serves every launch.
        self._pack = struct.Struct("".join(formats)).pack_into
        self._values = ctypes.create_string_buffer(max(1, struct.calcsize("".join(formats))))
        start = ctypes.addressof(self._values)
        offsets = [struct.calcsize("".join(formats[:i]) + "0" + f) for i, f in enumerate(formats)]
        self._pointers = (ctypes.c_void_p * len(offsets))(*(start + offset for offset in offsets))
        self._address = ctypes.addressof(self._pointers)
        forks.give_lock(self)

    def launch(self, grid: tuple[int, ...], block: Block, *values: int | float) -> None:
        """Launch on CuPy's current stream. Safe under stream capture, and from several threads."""
        if len(grid) != 3:
            grid = (*grid, 1, 1)[:3]
        stream = self._stream().ptr
        with self._lock:
            self._pack(self._values, 0, *values)
            self._driver_launch(self._function, *grid, *block, self._shared, stream, self._address, 0)


class _Thread(threading.local):
    is_bound = False


_thread = _Thread()


def device() -> int:
    """The number of the current GPU: what is loaded belongs to it. Asked before each launch.

    The driver launches into the context of the calling thread, and a new thread has none until something of the
    runtime needs one there (CUDA Driver API, "Context Management"). Memory that comes from CuPy's pool does not.
    """
    cuda = gpu.cuda()
    if not _thread.is_bound:
        cuda.Device().use()
        _thread.is_bound = True
    return cuda.device.get_device_id()
